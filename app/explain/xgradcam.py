"""XGrad-CAM (Fu et al. 2020, https://arxiv.org/abs/2008.02312)."""

import torch
from torch import Tensor

from app.types import MethodInfo

INFO = MethodInfo(
    name="xgradcam",
    title="XGrad-CAM",
    paper="https://arxiv.org/abs/2008.02312",
    cost="one pass",
)

_SILENT = 1e-6  # a channel whose sum is below this part of its mass has none to speak of


def compute(activations: Tensor, gradients: Tensor) -> Tensor:
    """Channels weighted by their gradients, averaged by activation, before the ReLU.

    Where the activations of a channel cancel out, its weight has no meaning and would be without
    bound: it is 0.

    Args:
        activations: [N, C, h, w].
        gradients: [N, C, h, w].

    Returns:
        [N, h, w], signed: the sum over channels of Σ(gradient · A) / ΣA · A.
    """
    total = activations.sum(dim=(2, 3))  # [N, C]
    speaks = total.abs() > _SILENT * activations.abs().sum(dim=(2, 3))
    weighted = (gradients * activations).sum(dim=(2, 3))
    weights = torch.where(speaks, weighted / torch.where(speaks, total, 1), 0)  # [N, C]
    return torch.einsum("nc,nchw->nhw", weights, activations)
