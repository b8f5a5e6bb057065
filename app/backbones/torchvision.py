"""torchvision's classification models: build one, find its weights, take its defaults."""

import logging
from typing import Any
from urllib.error import URLError

import torch
from torch import nn
from torchvision import models
from torchvision.models import WeightsEnum

from app.backbones.manifest import Manifest
from app.errors import ManifestError, ModelCheckFailed
from app.types import Preprocess

log = logging.getLogger(__name__)

StateDict = dict[str, torch.Tensor]


def build(manifest: Manifest) -> nn.Module:
    """The architecture with freshly drawn weights: the same for the same seed.

    Raises:
        ManifestError: torchvision has no such classification model, or not with these classes.
    """
    # Detectors and segmenters are registered beside them; module= leaves those out.
    if manifest.architecture not in models.list_models(module=models):
        raise ManifestError(
            f"{manifest.file}: architecture: torchvision has no classification model"
            f" {manifest.architecture!r}"
        )
    arguments = {} if manifest.num_classes is None else {"num_classes": manifest.num_classes}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(manifest.seed)
        model: nn.Module = models.get_model(manifest.architecture, weights=None, **arguments)
        if manifest.weights == "random":
            _draw_empty_weights(model)
    return model


def published_weights(manifest: Manifest) -> WeightsEnum:
    """The weights entry that the manifest names, or else the architecture's default one.

    Raises:
        ManifestError: the architecture has no entry of that name.
    """
    entries = models.get_model_weights(manifest.architecture)
    if manifest.is_local:
        return entries.DEFAULT
    if manifest.weights not in entries.__members__:
        raise ManifestError(
            f"{manifest.file}: weights: {manifest.architecture} has"
            f" {', '.join(entries.__members__)}; or name a .safetensors file, or 'random'"
        )
    return entries[manifest.weights]


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


def preprocess(manifest: Manifest) -> Preprocess:
    """The manifest's preprocessing, completed by that of the weights entry."""
    default = _preset(published_weights(manifest))
    merged = default | manifest.preprocess.model_dump(exclude_none=True)
    crop = merged.pop("crop")
    return Preprocess(crop=(crop, crop) if isinstance(crop, int) else crop, **merged)


def labels(manifest: Manifest, num_classes: int) -> tuple[str, ...]:
    """The manifest's labels, or the weights entry's where it has as many, or numbered ones.

    Raises:
        ManifestError: the label file has not one line a class.
    """
    own = manifest.read_labels()
    if own is None:
        published = tuple(published_weights(manifest).meta.get("categories", ()))
        numbered = tuple(f"class {index}" for index in range(num_classes))
        return published if len(published) == num_classes else numbered
    if len(own) != num_classes:
        raise ManifestError(
            f"{manifest.file}: labels: {manifest.labels} has {len(own)} lines, the model has"
            f" {num_classes} classes"
        )
    return own


def _preset(entry: WeightsEnum) -> dict[str, Any]:
    transform = entry.transforms()
    return {
        "resize": _single(transform.resize_size),
        "crop": _single(transform.crop_size),
        "interpolation": transform.interpolation.value,
        "mean": tuple(transform.mean),
        "std": tuple(transform.std),
    }


def _single(size: list[int]) -> int | tuple[int, int]:
    return size[0] if len(size) == 1 else (size[0], size[1])


def _draw_empty_weights(model: nn.Module) -> None:
    # torchvision's ViT starts with an all-zero classifier: no class would have a gradient.
    for weight in model.parameters():
        if weight.ndim > 1 and not weight.any():
            nn.init.normal_(weight, 0, 0.02)
