"""Pictures in, logits and maps out: the one place that knows both models and methods."""

import time
from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import Tensor

from app.backbones.cut import TRACING, Cut
from app.backbones.model import Model
from app.backbones.registry import Registry
from app.engine.batching import Outcome
from app.errors import NonFiniteOutput
from app.explain.registry import Method, methods
from app.types import Catalogue, ClassMap, Job, JobResult


class Runner:
    """Runs the jobs of one worker on the models of its registry."""

    def __init__(self, registry: Registry, max_batch_size: int) -> None:
        self._registry = registry
        self._max_batch_size = max_batch_size

    def run(self, jobs: Sequence[Job]) -> list[Outcome]:
        """Run rows that share model, version and layer; see ``run``."""
        model = self._registry.get(jobs[0].model, jobs[0].version)
        with TRACING:  # of another model, which is being loaded
            return run(model, jobs)

    def load(self, names: Sequence[str], on_change: Callable[[], None]) -> None:
        """Load models one after the other, each warm before it is announced as ready."""
        for name in names:
            self._registry.load(name, self._warm_up)
            on_change()

    def catalogue(self) -> Catalogue:
        """What is served now."""
        known = tuple(method.info for method in methods().values())
        return Catalogue(
            device=str(self._registry.device),
            torch=torch.__version__,
            models=tuple(
                model.model_copy(update={"methods": tuple(info.name for info in known)})
                for model in self._registry.models()
            ),
            methods=known,
        )

    def _warm_up(self, model: Model) -> None:
        """The smallest and the largest batch: kernels are chosen, and the memory is known to do."""
        pixels = np.full((*model.preprocess.crop, 3), 127, np.uint8)
        job = Job(
            model="", version="", pixels=pixels, deadline=0, classes=("top1",), methods=("gradcam",)
        )
        for rows in (1, self._max_batch_size):
            run(model, [job] * rows)


def run(model: Model, jobs: Sequence[Job]) -> list[Outcome]:
    """Run rows that share a model and a layer: one trunk pass, one head pass, few gradients.

    Rows mix freely: predict only, one class or several, one method or several. A row whose numbers
    are not finite fails alone.

    Args:
        model: a ready model.
        jobs: at least one; all of the same layer.

    Returns:
        An outcome for each job, in order.
    """
    started = time.perf_counter()
    cut = model.cut(jobs[0].layer)
    with torch.no_grad():
        activations = cut.forward_features(model.normalize([job.pixels for job in jobs])).float()
    explained = any(job.methods for job in jobs)
    with torch.set_grad_enabled(explained):
        logits, target = cut.forward_head(activations.requires_grad_(explained))
    scores = torch.softmax(logits.detach(), dim=1).cpu().numpy()  # [N, classes]
    numbers = logits.detach().cpu().numpy()
    classes = [_class_indices(job, row) for job, row in zip(jobs, numbers, strict=True)]
    forward_done = time.perf_counter()
    maps = _maps(cut, jobs, classes, logits, target)
    timings = {
        "forward": (forward_done - started) * 1e3,
        "backward": (time.perf_counter() - forward_done) * 1e3,
    }
    return [
        _outcome(JobResult(logits=n, scores=s, maps=m, timings=timings, batch_rows=len(jobs)))
        for n, s, m in zip(numbers, scores, maps, strict=True)
    ]


def _class_indices(job: Job, logits: np.ndarray[tuple[int], np.dtype[np.float32]]) -> list[int]:
    """``top3`` becomes three indices; a class asked for twice is explained once."""
    if not job.methods:
        return []
    ranking = np.argsort(-logits, kind="stable").tolist()
    found: dict[int, None] = {}
    for entry in job.classes:
        picked = [entry] if isinstance(entry, int) else ranking[: int(entry.removeprefix("top"))]
        found.update(dict.fromkeys(picked))
    return list(found)


def _maps(
    cut: Cut, jobs: Sequence[Job], classes: Sequence[list[int]], logits: Tensor, target: Tensor
) -> list[tuple[ClassMap, ...]]:
    """Round k differentiates the k-th class of every row at once: the longest row sets the cost."""
    rounds = max(map(len, classes))
    activations = cut.grid.maps(target.detach())
    computed: list[dict[str, np.ndarray[tuple[int, int, int], np.dtype[np.float32]]]] = []
    used = {name: methods()[name] for job in jobs for name in job.methods}
    for turn in range(rounds):
        picked = torch.tensor([row[turn] if turn < len(row) else 0 for row in classes])
        gradients = cut.grid.maps(_gradient(logits, target, picked, last=turn == rounds - 1))
        computed.append({name: _compute(m, activations, gradients) for name, m in used.items()})
    return [
        tuple(
            ClassMap(index=index, method=name, layer=cut.layer, values=computed[turn][name][row])
            for name in job.methods
            for turn, index in enumerate(classes[row])
        )
        for row, job in enumerate(jobs)
    ]


def _gradient(logits: Tensor, target: Tensor, class_idx: Tensor, *, last: bool) -> Tensor:
    with torch.enable_grad():
        chosen = logits.gather(1, class_idx.to(logits.device).unsqueeze(1)).sum()
        (gradient,) = torch.autograd.grad(chosen, target, retain_graph=not last)
    return gradient


def _compute(
    method: Method, activations: Tensor, gradients: Tensor
) -> np.ndarray[tuple[int, int, int], np.dtype[np.float32]]:
    maps = method.compute(activations.float(), gradients.float())  # [N, h, w]
    result: np.ndarray[tuple[int, int, int], np.dtype[np.float32]] = maps.cpu().numpy()
    return result


def _outcome(result: JobResult) -> Outcome:
    arrays = (result.logits, *(m.values for m in result.maps))
    if all(np.isfinite(array).all() for array in arrays):
        return result
    return NonFiniteOutput("The model answered this picture with numbers that are not finite.")
