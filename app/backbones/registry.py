"""Which models there are, and in what state."""

import logging
from collections.abc import Callable, Iterable, Mapping
from contextlib import AbstractContextManager, nullcontext
from threading import Lock

import torch

from app.backbones.kept import Kept
from app.backbones.manifest import Manifest
from app.backbones.memory import Meter, check_fits, check_left, full_device, give_back
from app.backbones.model import DEFAULTS, Loading, Model
from app.errors import CamserveError, LoadFailed, ModelReplaced, NotEnoughMemory
from app.types import CompileInfo, ModelInfo, ModelState, Precision

log = logging.getLogger(__name__)

FindKept = Callable[[str, Precision], AbstractContextManager[Kept | None]]


def _nothing_kept(_version: str, _precision: Precision) -> AbstractContextManager[None]:
    return nullcontext()


class Registry:
    """The models of one worker.

    Args:
        manifests: all that the models folder has, by name.
        device: where they are loaded.
        loading: how.
    """

    def __init__(
        self, manifests: Mapping[str, Manifest], device: torch.device, loading: Loading = DEFAULTS
    ) -> None:
        self._loading = loading
        self.device = device
        self._manifests = dict(manifests)
        self._lock = Lock()
        self._ready: dict[str, Model] = {}
        self._retired: dict[tuple[str, str], Model] = {}
        self._info = {name: _listed(manifest) for name, manifest in manifests.items()}

    def expect(self, names: Iterable[str]) -> list[str]:
        """Announce the models that will be loaded; those that need no network come first.

        A name without a manifest is announced as failed, so that readiness names it.
        """
        wanted = list(names)
        for name in wanted:
            manifest = self._manifests.get(name)
            if manifest is None:
                log.error("no manifest named %r in the models folder", name)
            self._set(_listed(manifest, state="loading") if manifest else _missing(name))
        return sorted(
            (name for name in wanted if name in self._manifests),
            key=lambda name: not self._manifests[name].is_local,
        )

    def enlist(self, manifest: Manifest, state: ModelState = "unloaded") -> None:
        """Make a model known, or another manifest of it; what is served already stays so."""
        with self._lock:
            self._manifests[manifest.name] = manifest
            if manifest.name not in self._ready:
                self._info[manifest.name] = _listed(manifest, state)

    def load(
        self, name: str, prepare: Callable[[Model], None], kept: FindKept = _nothing_kept
    ) -> CamserveError | None:
        """Load one model, prepare it and serve it, in place of another version if there is one.

        Args:
            name: of a model with a manifest.
            prepare: makes the model ready for its first job.
            kept: what was compiled of a version in a precision; it is loaded within that.

        Returns:
            Why it cannot be; that is kept as its state, too, unless another version is served on.
        """
        manifest = self._manifests[name]
        try:
            if self._serves(manifest):
                self._keep_error(manifest, None)
            else:
                self._switch(self._make(manifest, prepare, kept))
        except Exception as exc:  # noqa: BLE001 - whatever is wrong with one model is its state
            error = self._explain(manifest, exc)
        else:
            return None
        self._keep_error(manifest, error.detail)
        give_back(self.device)
        return error

    def _make(self, manifest: Manifest, prepare: Callable[[Model], None], kept: FindKept) -> Model:
        """A model that is ready, and leaves room for its requests."""
        check_fits(manifest)
        meter = Meter(self.device)
        with kept(manifest.version(), self._loading.precision_of(manifest)) as programs:
            model = Model(manifest, self.device, self._loading, programs)
            prepare(model)
        check_left(manifest, self.device, meter.taken())  # while it has what a batch takes, too
        give_back(self.device)  # what loading leaves behind: a fifth of a worker's memory
        model.info = model.info.model_copy(update={"memory_bytes": meter.taken()})
        return model

    def unload(self, name: str) -> None:
        """Serve a model no more; jobs that wait for it are still run."""
        with self._lock:
            if name in self._manifests:
                self._info[name] = _listed(self._manifests[name])
            self._retire(name)

    def forget(self, name: str) -> None:
        """Unload a model whose manifest is gone, and list it no more."""
        self.unload(name)
        with self._lock:
            self._manifests.pop(name, None)
            self._info.pop(name, None)

    def retired(self) -> list[tuple[str, str]]:
        """Name and version of the models that are kept for the jobs that wait for them."""
        with self._lock:
            return list(self._retired)

    def release(self, name: str, version: str) -> None:
        """Let a retired model go, and its memory."""
        with self._lock:
            if self._retired.pop((name, version), None) is None:
                return
        give_back(self.device)
        log.info("model %s of version %s is gone", name, version)

    def get(self, name: str, version: str) -> Model:
        """A model of exactly this version, served or not yet released.

        Raises:
            ModelReplaced: it is gone.
        """
        model = self._ready.get(name)
        if model is None or model.info.version != version:
            model = self._retired.get((name, version))
        if model is None:
            raise ModelReplaced(f"Model {name!r} of version {version} is no longer loaded.")
        return model

    def models(self) -> tuple[ModelInfo, ...]:
        """All models, loaded or not, by name."""
        with self._lock:
            return tuple(self._info[name] for name in sorted(self._info))

    def ready(self) -> list[Model]:
        """The models that are served."""
        with self._lock:
            return list(self._ready.values())

    def manifest(self, name: str) -> Manifest:
        """What a model was loaded from, or will be."""
        with self._lock:
            return self._manifests[name]

    def note(self, model: Model, compiled: CompileInfo) -> None:
        """Tell what has become of compiling a model's trunk."""
        with self._lock:
            model.info = model.info.model_copy(update={"compile": compiled})
            if self._ready.get(model.info.name) is model:
                known = self._info[model.info.name]
                self._info[model.info.name] = known.model_copy(update={"compile": compiled})

    def _serves(self, manifest: Manifest) -> bool:
        model = self._ready.get(manifest.name)
        return model is not None and model.info.version == manifest.version()

    def _switch(self, model: Model) -> None:
        name = model.info.name
        with self._lock:
            self._retire(name)
            self._ready[name] = model
            self._retired.pop((name, str(model.info.version)), None)  # it is served once more
            self._info[name] = model.info
        log.info("model %s ready on %s, cut at %s", name, self.device, model.layer)

    def _retire(self, name: str) -> None:
        """A retired model can be had before it stops being the ready one: ``get`` takes no lock."""
        if model := self._ready.get(name):
            self._retired[name, str(model.info.version)] = model
            del self._ready[name]

    def _explain(self, manifest: Manifest, exc: Exception) -> CamserveError:
        if isinstance(exc, torch.OutOfMemoryError):
            exc = full_device(manifest, self.device)
        if isinstance(exc, CamserveError):  # it says all there is to say
            log.error("model %s failed to load: %s", manifest.name, exc.detail)
            return exc if isinstance(exc, NotEnoughMemory) else LoadFailed(exc.detail)
        log.error("model %s failed to load", manifest.name, exc_info=exc)
        return LoadFailed(f"{type(exc).__name__}: {exc}")

    def _keep_error(self, manifest: Manifest, error: str | None) -> None:
        with self._lock:
            if ready := self._ready.get(manifest.name):
                self._info[manifest.name] = ready.info.model_copy(update={"error": error})
            else:
                self._info[manifest.name] = _listed(manifest, "failed", error)

    def _set(self, info: ModelInfo) -> None:
        with self._lock:
            self._info[info.name] = info


def _listed(
    manifest: Manifest, state: ModelState = "unloaded", error: str | None = None
) -> ModelInfo:
    return ModelInfo.model_validate(
        {
            "name": manifest.name,
            "state": state,
            "error": error,
            "description": manifest.description,
            "family": manifest.family,
            "architecture": manifest.architecture,
        }
    )


def _missing(name: str) -> ModelInfo:
    return ModelInfo(
        name=name, state="failed", error=f"no manifest named {name!r} in the models folder"
    )
