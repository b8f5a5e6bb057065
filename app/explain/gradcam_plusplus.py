"""Grad-CAM++ (Chattopadhay et al. 2018, https://arxiv.org/abs/1710.11063)."""

import torch
from torch import Tensor

from app.types import MethodInfo

INFO = MethodInfo(
    name="gradcam_plusplus",
    title="Grad-CAM++",
    paper="https://arxiv.org/abs/1710.11063",
    cost="one pass",
)


def compute(activations: Tensor, gradients: Tensor) -> Tensor:
    """Channels weighted by their positive gradients, each place by its alpha: eq. 5 and 19.

    Eq. 19, g² / (2 g² + ΣA g³), is written as 1 / (2 + ΣA g): powers of a small gradient would be
    lost in float32, and a constant in the denominator would outweigh them. Where the denominator is
    0 it is 1, as in the authors' code. The factor exp(S) of eq. 17 is the same for a whole map, and
    is left out.

    Args:
        activations: [N, C, h, w].
        gradients: [N, C, h, w].

    Returns:
        [N, h, w]: the sum over channels of sum(alpha · relu(gradient)) · activation.
    """
    total = activations.sum(dim=(2, 3), keepdim=True)  # [N, C, 1, 1]
    denominator = 2 + total * gradients
    alpha = 1 / torch.where(denominator == 0, torch.ones_like(denominator), denominator)
    weights = (alpha * gradients.clamp(min=0)).sum(dim=(2, 3))  # [N, C]
    return torch.einsum("nc,nchw->nhw", weights, activations)
