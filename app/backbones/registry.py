"""Which models there are, and in what state."""

import logging
from collections.abc import Callable, Iterable, Mapping
from threading import Lock

import torch

from app.backbones.manifest import Manifest
from app.backbones.model import DEFAULTS, Loading, Model
from app.errors import ModelNotLoaded, SetupError
from app.types import ModelInfo

log = logging.getLogger(__name__)


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
        self._info = {name: _listed(manifest) for name, manifest in manifests.items()}

    def expect(self, names: Iterable[str]) -> list[str]:
        """Announce the models that will be loaded; those that need no network come first.

        A name without a manifest is announced as failed, so that readiness names it.
        """
        wanted = list(names)
        for name in wanted:
            manifest = self._manifests.get(name)
            self._set(_listed(manifest, state="loading") if manifest else _missing(name))
        return sorted(
            (name for name in wanted if name in self._manifests),
            key=lambda name: not self._manifests[name].is_local,
        )

    def load(self, name: str, warm_up: Callable[[Model], None]) -> None:
        """Load one model, warm it up and serve it; a failure is kept as its state."""
        manifest = self._manifests[name]
        try:
            model = Model(manifest, self.device, self._loading)
            warm_up(model)
        except SetupError as exc:  # it says all there is to say
            log.error("model %s failed to load: %s", name, exc.detail)  # noqa: TRY400
            self._set(_listed(manifest, state="failed", error=exc.detail))
            return
        except Exception as exc:
            log.exception("model %s failed to load", name)
            self._set(_listed(manifest, state="failed", error=f"{type(exc).__name__}: {exc}"))
            return
        with self._lock:
            self._ready[name] = model
            self._info[name] = model.info
        log.info("model %s ready on %s, cut at %s", name, self.device, model.layer)

    def get(self, name: str, version: str) -> Model:
        """A ready model of exactly this version.

        Raises:
            ModelNotLoaded: it is gone, or was replaced.
        """
        model = self._ready.get(name)
        if model is None or model.info.version != version:
            raise ModelNotLoaded(f"Model {name!r} of version {version} is no longer loaded.")
        return model

    def models(self) -> tuple[ModelInfo, ...]:
        """All models, loaded or not, by name."""
        with self._lock:
            return tuple(self._info[name] for name in sorted(self._info))

    def _set(self, info: ModelInfo) -> None:
        with self._lock:
            self._info[info.name] = info


def _listed(manifest: Manifest, state: str = "unloaded", error: str | None = None) -> ModelInfo:
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
