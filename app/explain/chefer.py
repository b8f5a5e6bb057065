"""Gradient-weighted relevance (Chefer et al. 2021, https://arxiv.org/abs/2103.15679)."""

from collections.abc import Sequence

import torch
from torch import Tensor

from app.types import MethodInfo

INFO = MethodInfo(
    name="chefer",
    title="Chefer relevance",
    paper="https://arxiv.org/abs/2103.15679",
    cost="one pass, a gradient through the whole network",
)


def compute(attention: Sequence[Tensor], attention_gradients: Sequence[Tensor]) -> Tensor:
    """How relevant each token is to the class, block by block: eq. 5 and 6, self-attention alone.

    R starts as the identity; each block adds the mean over heads of relu(gradient · attention) · R.

    Args:
        attention: for each block [N, heads, T, T].
        attention_gradients: the same shapes.

    Returns:
        [N, T]: the row of the class token, not negative.
    """
    first = attention[0]
    relevance = torch.eye(first.shape[-1], device=first.device, dtype=first.dtype)
    relevance = relevance.expand(len(first), -1, -1)
    for block, gradient in zip(attention, attention_gradients, strict=True):
        relevance = relevance + (gradient * block).clamp(min=0).mean(dim=1) @ relevance
    return relevance[:, 0]
