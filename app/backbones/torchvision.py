"""torchvision's classification models: build one, with its published weights or without."""

import logging
from typing import Any
from urllib.error import URLError

import torch
from torch import nn
from torchvision import models
from torchvision.models import SwinTransformer, VisionTransformer, WeightsEnum
from torchvision.models.vision_transformer import ConvStemConfig

from app.backbones.manifest import Manifest
from app.backbones.presets import imagenet
from app.backbones.weights import StateDict
from app.errors import ManifestError, ModelCheckFailed

log = logging.getLogger(__name__)

# Those whose arguments can be written down in TOML.
_CLASSES: dict[str, type[nn.Module]] = {
    "VisionTransformer": VisionTransformer,
    "SwinTransformer": SwinTransformer,
}
_SLOWLY_DRAWN = {"googlenet", "inception_v3"}  # their own way takes half a minute, and warns of it


def build(manifest: Manifest) -> nn.Module:
    """The architecture, with its published weights where the manifest names such, else new ones.

    Raises:
        ManifestError: torchvision has no such classification model, or not with these classes.
        ModelCheckFailed: the published weights cannot be had.
    """
    if manifest.architecture in _CLASSES:
        return _of_class(manifest)
    # Detectors and segmenters are registered beside them; module= leaves those out.
    if manifest.architecture not in models.list_models(module=models):
        raise ManifestError(
            f"{manifest.file}: architecture: torchvision has no classification model"
            f" {manifest.architecture!r}"
        )
    entry = _entry(manifest) if manifest.is_published else None
    if entry is not None:
        download(manifest, entry.url)  # reads it with weights_only; what follows finds it cached
    try:
        model: nn.Module = models.get_model(
            manifest.architecture, weights=entry, **{**_usual(manifest), **manifest.constructor}
        )
    except TypeError as exc:
        raise ManifestError(f"{manifest.file}: arguments: {exc}") from exc
    except ValueError as exc:
        raise ManifestError(f"{manifest.file}: num_classes: {exc}") from exc
    return _without_aux(model)


def _usual(manifest: Manifest) -> dict[str, Any]:
    """Arguments of a model without published weights, where the manifest says nothing else."""
    if manifest.is_published:
        return {}
    if manifest.architecture in _SLOWLY_DRAWN:
        return {"init_weights": False}
    if manifest.architecture.startswith("vit_"):  # made for one size: that of its preprocessing
        return {"image_size": _entry(manifest).meta["min_size"][0]}
    return {}


def _of_class(manifest: Manifest) -> nn.Module:
    """A size of one's own, which no weights are published for."""
    if manifest.is_published:
        raise ManifestError(
            f"{manifest.file}: weights: none are published for {manifest.architecture}; name a"
            " .safetensors or .pth file, a URL, or 'random'"
        )
    arguments = manifest.constructor
    stem = arguments.get("conv_stem_configs")
    try:
        if stem is not None:  # TOML has tables where torchvision wants a class of its own
            arguments["conv_stem_configs"] = [ConvStemConfig(**layer) for layer in stem]
        model: nn.Module = _CLASSES[manifest.architecture](**arguments)
    except (TypeError, ValueError, AssertionError, RuntimeError) as exc:
        raise ManifestError(f"{manifest.file}: arguments: {exc}") from exc
    return model


def preset(manifest: Manifest) -> dict[str, Any]:
    """The preprocessing of the weights entry; ImageNet's where there is none."""
    if manifest.architecture in _CLASSES:
        return imagenet(manifest.arguments.get("image_size", 224))
    transform = _entry(manifest).transforms()
    return {
        "resize": _single(transform.resize_size),
        "crop": _single(transform.crop_size),
        "interpolation": transform.interpolation.value,
        "mean": tuple(transform.mean),
        "std": tuple(transform.std),
    }


def categories(manifest: Manifest) -> tuple[str, ...]:
    """The labels of the weights entry."""
    if manifest.architecture in _CLASSES:
        return ()
    return tuple(_entry(manifest).meta.get("categories", ()))


def download(manifest: Manifest, url: str) -> StateDict:
    """Fetch published weights into torch's cache, with a progress bar, or read them from there.

    The file is written beside its place and moved there whole; the hash in its name is checked.

    Raises:
        ModelCheckFailed: no network, or not what was asked for.
    """
    try:
        return torch.hub.load_state_dict_from_url(
            url, map_location="cpu", check_hash=True, weights_only=True
        )
    except (URLError, OSError, RuntimeError) as exc:
        log.warning("not downloaded to %s/checkpoints: %s", torch.hub.get_dir(), exc)
        raise ModelCheckFailed(
            f"{manifest.name}: cannot get its weights from {url} ({exc}). Allow that download once,"
            " or put the file into $TORCH_HOME/hub/checkpoints."
        ) from exc


def _entry(manifest: Manifest) -> WeightsEnum:
    """The weights entry that the manifest names, or else the architecture's default one."""
    entries = models.get_model_weights(manifest.architecture)
    if not manifest.is_published:
        return entries.DEFAULT
    if manifest.weights not in entries.__members__:
        raise ManifestError(
            f"{manifest.file}: weights: {manifest.architecture} has"
            f" {', '.join(entries.__members__)}; or name a .safetensors or .pth file, a URL, or"
            " 'random'"
        )
    return entries[manifest.weights]


def _without_aux(model: nn.Module) -> nn.Module:
    """Inception's auxiliary classifiers serve training alone."""
    for name in ("aux1", "aux2", "AuxLogits"):
        if getattr(model, name, None) is not None:
            setattr(model, name, None)
            model.__dict__["aux_logits"] = False
    return model


def _single(size: list[int]) -> int | tuple[int, int]:
    return size[0] if len(size) == 1 else (size[0], size[1])
