"""Attention rollout (Abnar and Zuidema 2020, https://arxiv.org/abs/2005.00928)."""

from collections.abc import Sequence

import torch
from torch import Tensor

from app.types import MethodInfo

INFO = MethodInfo(
    name="attention_rollout",
    title="Attention rollout",
    paper="https://arxiv.org/abs/2005.00928",
    cost="one pass, no gradient",
    class_specific=False,
)


def compute(attention: Sequence[Tensor]) -> Tensor:
    """How much of each token reaches the class token, through all blocks.

    The mean over heads, half of it the residual, multiplied from the first block to the last.
    The map is the same for every class.

    Args:
        attention: for each block [N, heads, T, T]; rows sum to 1.

    Returns:
        [N, T]: the row of the class token, not negative.
    """
    first = attention[0]
    identity = torch.eye(first.shape[-1], device=first.device, dtype=first.dtype)
    flow = identity.expand(len(first), -1, -1)
    for block in attention:
        flow = (block.mean(dim=1) + identity) / 2 @ flow
    return flow[:, 0]
