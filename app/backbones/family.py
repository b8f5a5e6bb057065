"""Where models come from: each family builds its own, and knows their defaults."""

from contextlib import AbstractContextManager, nullcontext
from types import ModuleType

import torch
from torch import nn

from app.backbones import factory, timm, torchvision
from app.backbones.manifest import Manifest
from app.backbones.undrawn import Undrawn
from app.backbones.weights import load_weights
from app.errors import ManifestError
from app.types import Preprocess

_FAMILIES: dict[str, ModuleType] = {
    "torchvision": torchvision,
    "timm": timm,
    "factory": factory,
}


def build(manifest: Manifest, *, allow_factories: bool) -> nn.Module:
    """The model with its weights: new ones are the same for the same seed.

    Args:
        manifest: which.
        allow_factories: whether the operator's own Python may build it.

    Raises:
        ManifestError: the manifest asks for what cannot be.
        ModelCheckFailed: the weights cannot be had, or are not those of this model.
    """
    if manifest.family == "factory" and not allow_factories:
        raise ManifestError(
            f"{manifest.file}: family: it runs Python of its own; APP_ALLOW_FACTORIES=true allows"
            " that"
        )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(manifest.seed)
        with _drawing(manifest):
            model: nn.Module = _FAMILIES[manifest.family].build(manifest)
        if manifest.weights == "random":
            _draw_empty_weights(model)
    load_weights(manifest, model)
    return model


def preprocess(manifest: Manifest) -> Preprocess:
    """The manifest's preprocessing, completed by the family's."""
    default = _FAMILIES[manifest.family].preset(manifest)
    merged = default | manifest.preprocess.model_dump(exclude_none=True)
    crop = merged.pop("crop")
    return Preprocess(crop=(crop, crop) if isinstance(crop, int) else crop, **merged)


def labels(manifest: Manifest, num_classes: int) -> tuple[str, ...]:
    """The manifest's labels, or the published ones where they are as many, or numbered ones.

    Raises:
        ManifestError: the label file has not one label a class.
    """
    own = manifest.read_labels()
    if own is None:
        published: tuple[str, ...] = _FAMILIES[manifest.family].categories(manifest)
        numbered = tuple(f"class {index}" for index in range(num_classes))
        return published if len(published) == num_classes else numbered
    if len(own) != num_classes:
        raise ManifestError(
            f"{manifest.file}: labels: {manifest.labels} has {len(own)} labels, the model has"
            f" {num_classes} classes"
        )
    return own


def _drawing(manifest: Manifest) -> AbstractContextManager[object]:
    """Weights are drawn, unless all of them are replaced.

    torchvision's networks have nothing random but those; others may.
    """
    replaced = manifest.family == "torchvision" and manifest.weights != "random"
    return Undrawn() if replaced else nullcontext()


def _draw_empty_weights(model: nn.Module) -> None:
    # torchvision's ViT starts with an all-zero classifier: no class would have a gradient.
    for weight in model.parameters():
        if weight.ndim > 1 and not weight.any():
            nn.init.normal_(weight, 0, 0.02)
