"""Grad-CAM (Selvaraju et al. 2017, https://arxiv.org/abs/1610.02391)."""

from torch import Tensor

from app.types import MethodInfo

INFO = MethodInfo(
    name="gradcam",
    title="Grad-CAM",
    paper="https://arxiv.org/abs/1610.02391",
    cost="one pass",
)


def compute(activations: Tensor, gradients: Tensor) -> Tensor:
    """Channels weighted by the mean gradient of the logit: eq. 1 and 2, before the ReLU.

    Args:
        activations: [N, C, h, w].
        gradients: [N, C, h, w].

    Returns:
        [N, h, w], signed: the sum over channels of mean(gradient) · activation.
    """
    weights = gradients.mean(dim=(2, 3))  # [N, C]
    return (weights[:, :, None, None] * activations).sum(dim=1)
