"""Models that the operator's own Python builds: a file in the models folder.

``architecture = "my_models.py:make_net"`` names the file and a function in it. It is called with
the manifest's ``[arguments]``, and ``num_classes`` where that says how many, and returns an
``nn.Module`` that turns [N, 3, H, W] into logits. It is code, so it runs only where
``APP_ALLOW_FACTORIES`` is set.
"""

import importlib.util
from pathlib import Path
from typing import Any

from torch import nn

from app.backbones.manifest import Manifest
from app.backbones.presets import imagenet
from app.errors import ManifestError


def build(manifest: Manifest) -> nn.Module:
    """Call the factory.

    Raises:
        ManifestError: naming what is wrong with it.
    """
    path, function = manifest.factory
    if not function or not path.is_relative_to(manifest.path.parent.resolve()):
        raise _wrong(manifest, "must be 'FILE.py:FUNCTION', a file in the models folder")
    try:
        model = _function(path, function)(**manifest.constructor)
    except Exception as exc:  # it is the operator's code: it may do anything
        raise _wrong(manifest, f"{path.name} failed: {type(exc).__name__}: {exc}") from exc
    if not isinstance(model, nn.Module):
        raise _wrong(manifest, f"{function} returned a {type(model).__name__}, not an nn.Module")
    return model


def _function(path: Path, name: str) -> Any:  # noqa: ANN401 - whatever the file has
    spec = importlib.util.spec_from_file_location(f"camserve_factory_{path.stem}", path)
    if spec is None or spec.loader is None:
        raise ImportError(f"{path.name} is no Python file")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return getattr(module, name)


def preset(manifest: Manifest) -> dict[str, Any]:
    """ImageNet's mean and deviation, 224 x 224, where the manifest says nothing else."""
    return imagenet(manifest.preprocess.crop or 224)


def categories(_manifest: Manifest) -> tuple[str, ...]:
    """None are known."""
    return ()


def _wrong(manifest: Manifest, problem: str) -> ManifestError:
    return ManifestError(f"{manifest.file}: architecture: {problem}")
