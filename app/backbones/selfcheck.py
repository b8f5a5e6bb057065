"""Every model proves itself on a fixed picture before it serves."""

import torch
from torch import Tensor

from app.backbones.parts import Cut
from app.backbones.reference import difference
from app.errors import ModelCheckFailed

_LOGITS_NDIM = 2  # [N, classes]
_TOLERANCE = 1e-4  # relative; float32 sums in another order


def self_check(expected: object, cut: Cut, example: Tensor, tolerance: float = _TOLERANCE) -> int:
    """Check that the two parts are the model, and that its classes have a gradient.

    Args:
        expected: what the whole classifier returns for the example.
        cut: its two parts.
        example: [1, 3, H, W].
        tolerance: relative, between the parts and the whole.

    Returns:
        The number of classes.

    Raises:
        ModelCheckFailed: naming the check.
    """
    with torch.no_grad():
        activations = cut.forward_features(example).float()
    if not isinstance(expected, Tensor) or expected.ndim != _LOGITS_NDIM:
        raise ModelCheckFailed("the model does not return one row of logits a picture")
    if not bool(expected.isfinite().all()):
        raise ModelCheckFailed(
            "finite: the model's output has NaN or infinity; are the weights whole?"
        )
    logits, target, gradient = _gradient(cut, activations)
    _check_split(logits, expected, tolerance)
    _check_gradient(gradient)
    _check_closed_form(cut, target, gradient, int(logits.argmax()))
    return int(expected.shape[1])


def _gradient(cut: Cut, activations: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    with torch.enable_grad():
        logits, target = cut.forward_head(activations.detach().requires_grad_())
        (gradient,) = torch.autograd.grad(logits.max(dim=1).values.sum(), target)
    return logits.detach(), target.detach(), gradient


def _check_split(logits: Tensor, expected: Tensor, tolerance: float) -> None:
    error = difference(logits, expected)
    if not error <= tolerance:
        raise ModelCheckFailed(f"split: head(features(x)) differs from model(x) by {error:.1e}")


def _check_gradient(gradient: Tensor) -> None:
    if not bool(gradient.isfinite().all()) or not bool(gradient.any()):
        raise ModelCheckFailed("gradient: no finite, non-zero gradient reaches the layer")


def _check_closed_form(cut: Cut, target: Tensor, gradient: Tensor, top: int) -> None:
    """On global average pooling and one linear layer, Grad-CAM is W[c]·A/(h·w) [identity]."""
    weight = cut.linear
    if weight is None:
        return
    area = cut.grid.height * cut.grid.width
    maps, gradients = cut.grid.maps(target), cut.grid.maps(gradient)
    closed = torch.einsum("c,nchw->nhw", weight[top], maps) / area
    ours = torch.einsum("nc,nchw->nhw", gradients.mean(dim=(2, 3)), maps)
    error = difference(ours, closed)
    if error > _TOLERANCE:
        raise ModelCheckFailed(f"closed form: Grad-CAM differs from W[c]·A/(h·w) by {error:.1e}")
