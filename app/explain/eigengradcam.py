"""Eigen-Grad-CAM: Eigen-CAM on activations times gradients, as pytorch-grad-cam defines it.

It has no paper of its own; https://github.com/jacobgil/pytorch-grad-cam, ``eigen_grad_cam.py``.
"""

from torch import Tensor

from app.explain import gradcam
from app.explain.eigencam import project
from app.types import MethodInfo

INFO = MethodInfo(
    name="eigengradcam",
    title="Eigen-Grad-CAM",
    paper="https://github.com/jacobgil/pytorch-grad-cam",
    cost="one pass",
)


def compute(activations: Tensor, gradients: Tensor) -> Tensor:
    """The first principal component over channels of gradient · activation.

    Each channel is centred, as in that library. The sign is chosen so that the map agrees with
    Grad-CAM's. (HiResCAM's, the sum over channels, is rounding alone before a LayerNorm, through
    which no gradient passes along the activations.)

    Args:
        activations: [N, C, h, w].
        gradients: [N, C, h, w].

    Returns:
        [N, h, w], signed.
    """
    weighted = gradients * activations
    centred = weighted - weighted.mean(dim=(2, 3), keepdim=True)
    return project(centred, gradcam.compute(activations, gradients))
