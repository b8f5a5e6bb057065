"""Which architecture a checkpoint is of, told by its tensors' names and shapes."""

from dataclasses import dataclass

from torch import nn
from torchvision import models

from app.backbones.weights import StateDict, plain_names
from app.errors import ModelCheckFailed

_BUFFERS = (
    "running_mean", "running_var", "num_batches_tracked", "relative_position_index",
    "relative_coords_table",
)  # fmt: skip
_PUBLISHED_CLASSES = 1000


@dataclass(frozen=True, slots=True)
class Guess:
    """An architecture of torchvision, and its number of classes."""

    architecture: str
    num_classes: int


def guess(state: StateDict) -> Guess:
    """Find the architecture whose tensors have these names and shapes.

    Args:
        state: with or without the prefixes of wrappers.

    Raises:
        ModelCheckFailed: torchvision has none like it.
    """
    head = _head(state)
    for architecture in _candidates(state, head):
        model = models.get_model(architecture, weights=None, num_classes=head.classes)
        if _fits(state, model):
            return Guess(architecture, head.classes)
    raise ModelCheckFailed(
        "no architecture of torchvision has tensors like these (the first is"
        f" {next(iter(state))!r}):"
        ' write the manifest yourself, with family = "timm" or "factory"'
    )


@dataclass(frozen=True, slots=True)
class _Head:
    """The last weight: so many classes, from so many features."""

    classes: int
    features: int


def _head(state: StateDict) -> _Head:
    weights = [tensor for tensor in state.values() if tensor.ndim in {2, 4}]
    if not weights:
        raise ModelCheckFailed("the checkpoint holds no weights of layers")
    return _Head(weights[-1].shape[0], weights[-1].shape[1])


def _candidates(state: StateDict, head: _Head) -> list[str]:
    """Those whose number of parameters, as torchvision publishes it, fits the checkpoint's."""
    ours = sum(t.numel() for name, t in state.items() if not name.endswith(_BUFFERS))
    published = ours + (_PUBLISHED_CLASSES - head.classes) * (head.features + 1)
    return [
        name
        for name in models.list_models(module=models)
        if models.get_model_weights(name).DEFAULT.meta["num_params"] == published
    ]


def _fits(state: StateDict, model: nn.Module) -> bool:
    wanted = model.state_dict()
    ours = plain_names(state, wanted)
    return all(
        name in ours and ours[name].shape == tensor.shape
        for name, tensor in wanted.items()
        if not name.endswith("num_batches_tracked")
    )
