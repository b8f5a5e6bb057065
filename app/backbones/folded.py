"""Convolutions with their batch norm inside and nothing else: steps that every compiler knows.

The norm is taken in before anything is lowered: in bfloat16 it would cost two bits of the scores.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import conv2d

from app.backbones.kit import NOTHING, Behind, Conv, Kit, absorb


class Folded(Kit):
    """The kit of no device: PyTorch's own convolutions, the activation and the sum left behind.

    Args:
        dtype: in which its layers compute.
    """

    def __init__(self, dtype: torch.dtype = torch.float32) -> None:
        self._dtype = dtype

    def conv(
        self,
        conv: nn.Conv2d,
        norm: nn.BatchNorm2d | None,
        shape: Sequence[int],  # noqa: ARG002 - one layout does for all
        behind: Behind,
    ) -> Conv | None:
        """A convolution alone."""
        return FoldedConv(conv, norm, self._dtype) if behind == NOTHING else None


class FoldedConv(Conv):
    """A convolution that does its batch norm's work too."""

    weight: Tensor
    bias: Tensor | None

    def __init__(self, conv: nn.Conv2d, norm: nn.BatchNorm2d | None, dtype: torch.dtype) -> None:
        super().__init__()
        self._how: Any = (conv.stride, conv.padding, conv.dilation, conv.groups)
        for name, value in zip(("weight", "bias"), absorb(conv, norm), strict=True):
            self.register_buffer(name, value if value is None else value.detach().to(dtype))

    def forward(self, x: Tensor, other: Tensor | None = None) -> Tensor:  # noqa: ARG002
        """[N, C, H, W] → [N, K, h, w]."""
        return conv2d(x, self.weight, self.bias, *self._how)
