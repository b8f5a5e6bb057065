"""Guided Grad-CAM (Selvaraju et al. 2017, https://arxiv.org/abs/1610.02391, section 3.2)."""

from torch import Tensor
from torch.nn import functional

from app.explain import gradcam
from app.types import MethodInfo

INFO = MethodInfo(
    name="guided_gradcam",
    title="Guided Grad-CAM",
    paper="https://arxiv.org/abs/1610.02391",
    cost="one pass, a gradient through the whole network",
    warning="Guided backpropagation draws the picture's edges whatever the model has learned: it"
    " fails the sanity check of Adebayo et al. 2018.",
)


def compute(activations: Tensor, gradients: Tensor, guided_gradients: Tensor) -> Tensor:
    """Guided backpropagation, weighted by the positive part of Grad-CAM.

    Args:
        activations: [N, C, h, w].
        gradients: [N, C, h, w].
        guided_gradients: [N, 3, H, W].

    Returns:
        [N, H, W], signed: the sum over colours.
    """
    coarse = gradcam.compute(activations, gradients).clamp(min=0)[:, None]  # [N, 1, h, w]
    size = guided_gradients.shape[-2:]
    fine = functional.interpolate(coarse, size, mode="bilinear", align_corners=False)
    return (fine * guided_gradients).sum(dim=1)
