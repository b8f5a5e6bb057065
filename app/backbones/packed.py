"""Layers that oneDNN computes, their weights laid out for the processor once and not in every call.

Frozen: nobody changes the weights afterwards. A convolution or a linear layer applies what stands
behind it (an activation, the addition of another value) while its result is still in the cache.

Where PyTorch multiplies by MKL, as its builds for x86 do, linear layers gain most: on an AMD
processor MKL reaches two fifths of what oneDNN does, and a vision transformer is little else.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import scaled_dot_product_attention
from torch.nn.utils.fusion import fuse_conv_bn_weights

# The steps that torch.compile uses, too; torch has no public names for them.
_steps = torch.ops.mkldnn
_MANY = 8  # rows of a typical batch
_TOKENS = 64  # any number but one gives the same layout


@dataclass(frozen=True, slots=True)
class Activation:
    """By oneDNN's names."""

    name: str = "none"
    algorithm: str = ""


NO_ACTIVATION = Activation()


class ConvWeights:
    """Those of a convolution, with its batch norm inside.

    oneDNN wants another layout for one row than for several; the wrong one costs more than it
    saves, so both are kept.
    """

    def __init__(
        self,
        conv: nn.Conv2d,
        norm: nn.BatchNorm2d | None,
        shape: Sequence[int],  # of an input
        dtype: torch.dtype,
    ) -> None:
        weight, bias = (t if t is None else t.detach().to(dtype) for t in _absorb(conv, norm))
        self._how = (conv.padding, conv.stride, conv.dilation, conv.groups)
        pack = _steps._reorder_convolution_weight  # noqa: SLF001
        self._one_row, self._rows = (
            pack(weight, *self._how, (rows, *shape[1:])) for rows in (1, _MANY)
        )
        self._bias = bias

    def arguments(self, rows: int) -> tuple[object, ...]:
        """What a convolution of so many rows is called with."""
        return (self._one_row if rows == 1 else self._rows, self._bias, *self._how)


class LinearWeights:
    """Those of a linear layer: weight [K, C], bias [K]."""

    def __init__(self, weight: Tensor, bias: Tensor | None, dtype: torch.dtype) -> None:
        self._weight = weight.detach().to(dtype)
        self.bias = bias if bias is None else bias.detach().to(dtype)
        self.forward = _steps._reorder_linear_weight(self._weight, _TOKENS)  # noqa: SLF001

    @cached_property
    def backward(self) -> Tensor:
        """For the gradient with respect to the input; made when it is first asked for."""
        return _steps._reorder_linear_weight(self._weight.t().contiguous(), _TOKENS)  # type: ignore[no-any-return] # noqa: SLF001


class _Frozen(nn.Module):
    def __deepcopy__(self, _memo: object) -> "_Frozen":
        return self


class Conv(_Frozen):
    """A convolution, and what comes behind it."""

    def __init__(self, weights: ConvWeights, activation: Activation = NO_ACTIVATION) -> None:
        super().__init__()
        self.weights = weights
        self.in_place = False  # whether a sum overwrites what is added
        self._activation = activation

    def forward(self, x: Tensor, other: Tensor | None = None) -> Tensor:
        """[N, C, H, W] → [N, K, h, w]; ``other``, of the shape of the result, is added."""
        what, behind = self.weights.arguments(len(x)), self._activation
        step = _steps._convolution_pointwise  # noqa: SLF001
        if other is None:
            result: Tensor = step(x, *what, behind.name, [], behind.algorithm)
        else:
            then = None if behind == NO_ACTIVATION else behind.name
            how = (*what, "add", 1.0, then, [], behind.algorithm)
            result = (
                _steps._convolution_pointwise_.binary(other, x, *how)
                if self.in_place
                else step.binary(x, other, *how)
            )
        return result


class Linear(_Frozen):
    """A linear layer, and what comes behind it, where no gradient is asked for."""

    def __init__(self, weights: LinearWeights, activation: Activation = NO_ACTIVATION) -> None:
        super().__init__()
        self.weights = weights
        self._activation = activation

    def forward(self, x: Tensor, other: Tensor | None = None) -> Tensor:
        """[…, C] → […, K]; ``other``, of the shape of the result, is added."""
        if other is None:
            return _multiply(x, self.weights, self._activation)
        step = _steps._linear_pointwise.binary  # noqa: SLF001
        summed: Tensor = step(x, other, self.weights.forward, self.weights.bias, "add")
        return summed


class Attention(_Frozen):
    """Self-attention, as ``nn.MultiheadAttention(x, x, x, need_weights=False)``."""

    def __init__(self, inwards: LinearWeights, outwards: LinearWeights, heads: int) -> None:
        super().__init__()
        self.weights = inwards
        self._outwards = outwards
        self._heads = heads

    def forward(self, x: Tensor) -> tuple[Tensor, None]:
        """[N, T, C] → the same, and no weights."""
        n, tokens, channels = x.shape
        parts = _multiply(x, self.weights).view(n, tokens, 3, self._heads, channels // self._heads)
        query, key, value = parts.permute(2, 0, 3, 1, 4)  # each [N, heads, T, c]
        mixed = scaled_dot_product_attention(query, key, value).transpose(1, 2)
        return _multiply(mixed.reshape(n, tokens, channels), self._outwards), None


def _multiply(x: Tensor, weights: LinearWeights, behind: Activation = NO_ACTIVATION) -> Tensor:
    if x.requires_grad and torch.is_grad_enabled():
        return _Multiplication.apply(x, weights)  # type: ignore[no-any-return]
    return _linear(x, weights.forward, weights.bias, behind)


def _linear(x: Tensor, weight: Tensor, bias: Tensor | None, behind: Activation) -> Tensor:
    step = _steps._linear_pointwise  # noqa: SLF001
    result: Tensor = step(x, weight, bias, behind.name, [], behind.algorithm)
    return result


class _Multiplication(torch.autograd.Function):
    """With the gradient that oneDNN's step itself does not have."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weights: LinearWeights) -> Tensor:  # noqa: ANN401 - torch's own
        ctx.weights = weights
        return _linear(x, weights.forward, weights.bias, NO_ACTIVATION)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:  # noqa: ANN401
        return _linear(gradient, ctx.weights.backward, None, NO_ACTIVATION), None


def _absorb(conv: nn.Conv2d, norm: nn.BatchNorm2d | None) -> tuple[Tensor, Tensor | None]:
    """Weight and bias of a convolution that does the norm's work too."""
    if norm is None:
        return conv.weight, conv.bias
    mean, variance = norm.running_mean, norm.running_var
    assert mean is not None  # noqa: S101 - who absorbs it saw to it
    assert variance is not None  # noqa: S101
    return fuse_conv_bn_weights(
        conv.weight, conv.bias, mean, variance, norm.eps, norm.weight, norm.bias
    )
