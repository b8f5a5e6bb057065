"""The jobs of one worker: the one place that puts models, methods and passes together."""

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path

import numpy as np
import torch

from app.backbones.builds import Build, trying
from app.backbones.cores import Cores
from app.backbones.kept import Kept, kept
from app.backbones.manifest import Manifest
from app.backbones.memory import weights_apart
from app.backbones.model import Model
from app.backbones.program import load_warm
from app.backbones.registry import Registry
from app.backbones.tracing import GATE
from app.engine.batching import Outcome, SlowRun
from app.engine.device import Device
from app.engine.environment import has_openvino
from app.engine.fast import run
from app.engine.slow import run_slowly
from app.errors import CamserveError
from app.explain.registry import every_info
from app.types import Catalogue, Job, Precision

_SLICES = 4  # of a full batch: a slow job's step holds fast ones up no longer, and suits a CPU best


class Runner:
    """Runs the jobs of one worker on the models of its registry.

    Args:
        registry: the models.
        max_batch_size: rows, as the operator set it.
        compiles: whether programs of an earlier start are used.

    Attributes:
        device: where they are.
        sharing: how batches share it.
    """

    def __init__(self, registry: Registry, max_batch_size: int, *, compiles: bool = False) -> None:
        self._registry = registry
        self._compiles = compiles
        self._max_batch_size = max_batch_size
        self.device = Device(registry.device)
        self.sharing = self.device.sharing(max_batch_size)

    @property
    def cores(self) -> Cores:
        """Of the worker, for which programs are made."""
        return Cores(self.device.cores, self.sharing.drivers)

    def run(self, jobs: Sequence[Job]) -> list[Outcome]:
        """Run rows that share model, version and layer; see ``run``."""
        model = self._registry.get(jobs[0].model, jobs[0].version)
        with self.device.turn(), GATE.running():
            return run(model, jobs)

    def run_slowly(self, job: Job) -> SlowRun:
        """Run a job of many passes, one at a time; see ``run_slowly``."""
        model = self._registry.get(job.model, job.version)
        steps = run_slowly(model, job, max(1, self._max_batch_size // _SLICES))
        while True:
            try:
                with self.device.turn(self.device.background), GATE.running():
                    progress = next(steps)
            except StopIteration as end:
                outcome: Outcome = end.value
                return outcome
            yield progress

    def load(self, names: Sequence[str], on_change: Callable[[], None]) -> None:
        """Load models one after the other, each warm before it is announced as ready."""
        for name in names:
            self._load(name)
            on_change()

    def renew(self, manifest: Manifest, on_change: Callable[[], None]) -> CamserveError | None:
        """Load what a manifest says, and serve it in place of what its name stood for until now.

        Args:
            manifest: of the model.
            on_change: called when it begins to load, and at the end.

        Returns:
            Why it cannot be loaded: what was served before is served on.
        """
        self._registry.enlist(manifest, "loading")
        on_change()
        error = self._load(manifest.name)
        on_change()
        return error

    def adopt(self, name: str, version: str, place: Path, build: Build) -> None:
        """Let a model use what was compiled: each program is checked and warm before it serves.

        No model may be loaded meanwhile: while one is traced, no other can be run.

        Raises:
            ModelReplaced: it is gone.
            ModelCheckFailed: a program does not give the model's logits.
            RuntimeError: one cannot be set up, or a worker has died of that.
        """
        model = self._registry.get(name, version)
        file, cores, most = place / build.FILE, self.cores, self.sharing.max_rows
        self.device.use_cores()
        with trying(place), weights_apart():
            model.use(load_warm(file, build.kinds, model.precision, cores, most), cores)

    def catalogue(self) -> Catalogue:
        """What is served now."""
        known = tuple(every_info().values())
        return Catalogue(
            device=str(self._registry.device),
            torch=torch.__version__,
            models=self._registry.models(),
            methods=known,
        )

    def _load(self, name: str) -> CamserveError | None:
        self.device.use_cores()
        with self.device.turn(self.device.background), weights_apart():
            error = self._registry.load(name, self._prepare, self._kept)
        if error and self.device.is_gpu:
            self.device.end_if_lost()  # then it was no fault of the model's
        return error

    def _kept(self, version: str, precision: Precision) -> AbstractContextManager[Kept | None]:
        """What an earlier start has compiled of a model that is about to be loaded."""
        if not self._compiles or not has_openvino():
            return nullcontext()
        return kept(version, precision, self.cores, self.sharing.max_rows)

    def _prepare(self, model: Model) -> None:
        model.info = model.info.model_copy(update={"methods": _suited(model)})
        self._warm_up(model)

    def _warm_up(self, model: Model) -> None:
        """The smallest and the largest batch: kernels are chosen, and the memory is known to do."""
        pixels = np.full((*model.preprocess.crop, 3), 127, np.uint8)
        job = Job(
            model="", version="", pixels=pixels, deadline=0, classes=("top1",), methods=("gradcam",)
        )
        for rows in (self.sharing.max_rows, 1):
            run(model, [job] * rows)


def _suited(model: Model) -> tuple[str, ...]:
    """The methods whose needs the model can meet."""
    known = every_info().items()
    return tuple(name for name, info in known if model.provides.issuperset(info.needs))
