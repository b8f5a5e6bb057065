"""Layers that oneDNN computes, their weights laid out for the processor once and not in every call.

Frozen: nobody changes the weights afterwards. A convolution or a linear layer applies what stands
behind it (an activation, the addition of another value) while its result is still in the cache.

Where PyTorch multiplies by MKL, as its builds for x86 do, linear layers gain most: on an AMD
processor MKL reaches two fifths of what oneDNN does, and a vision transformer is little else.
"""

from collections.abc import Sequence
from functools import cached_property
from typing import Any
from weakref import WeakValueDictionary

import torch
from torch import Tensor, nn
from torch.nn.functional import scaled_dot_product_attention

from app.backbones.kit import NO_ACTIVATION, RELU, Activation, Behind, Conv, Kit, Layer, absorb

# The steps that torch.compile uses, too; torch has no public names for them.
_steps = torch.ops.mkldnn
_MANY = 8  # rows of a typical batch
_TOKENS = 64  # any number but one gives the same layout


class OneDnn(Kit):
    """The kit for a processor.

    Args:
        dtype: in which its layers compute.
    """

    def __init__(self, dtype: torch.dtype = torch.float32) -> None:
        self._dtype = dtype
        self._computes = computes_in(dtype)
        # As long as a graph uses them: a compiled trunk has its own.
        self._convs: WeakValueDictionary[object, _ConvWeights] = WeakValueDictionary()
        self._linears: WeakValueDictionary[int, _LinearWeights] = WeakValueDictionary()

    def conv(
        self, conv: nn.Conv2d, norm: nn.BatchNorm2d | None, shape: Sequence[int], behind: Behind
    ) -> Conv | None:
        """A convolution with any activation, after a sum with ReLU alone."""
        if not self._computes or (behind.adds and behind.activation not in {NO_ACTIVATION, RELU}):
            return None
        key = (conv, norm, tuple(shape[1:]))
        weights = self._convs.get(key) or _ConvWeights(conv, norm, shape, self._dtype)
        self._convs[key] = weights
        return _Conv(weights, behind.activation)

    def linear(self, weight: Tensor, bias: Tensor | None, behind: Behind) -> Layer | None:
        """A linear layer with an activation or a sum, where the processor has this type."""
        if not self._computes or (behind.adds and behind.activation != NO_ACTIVATION):
            return None
        return _Linear(self._linear_weights(weight, bias), behind.activation)

    def attention(self, attention: nn.MultiheadAttention) -> Layer | None:
        """Attention without what only other tasks need, where the processor has this type."""
        one_weight = attention.in_proj_weight is not None  # for queries, keys and values
        plain = one_weight and attention.bias_k is None and not attention.add_zero_attn
        if not plain or not self._computes:
            return None
        inwards = self._linear_weights(attention.in_proj_weight, attention.in_proj_bias)
        outwards = self._linear_weights(attention.out_proj.weight, attention.out_proj.bias)
        return _Attention(inwards, outwards, attention.num_heads)

    def _linear_weights(self, weight: Tensor, bias: Tensor | None) -> "_LinearWeights":
        key = id(weight)  # of a parameter of the model, which lives longer
        weights = self._linears.get(key) or _LinearWeights(weight, bias, self._dtype)
        self._linears[key] = weights
        return weights


def computes_in(dtype: torch.dtype) -> bool:
    """Whether oneDNN computes in this type on this processor, and does not convert to and fro."""
    if dtype == torch.float32 or not torch.backends.mkldnn.is_available():  # type: ignore[no-untyped-call]
        return dtype == torch.float32
    able = {
        torch.bfloat16: _steps._is_mkldnn_bf16_supported,  # noqa: SLF001
        torch.float16: _steps._is_mkldnn_fp16_supported,  # noqa: SLF001
    }
    return dtype in able and bool(able[dtype]())


class _ConvWeights:
    """Those of a convolution, with its batch norm inside.

    Some want another layout for one row on several cores; the wrong one costs more than it saves,
    so both are kept.
    """

    def __init__(
        self,
        conv: nn.Conv2d,
        norm: nn.BatchNorm2d | None,
        shape: Sequence[int],  # of an input
        dtype: torch.dtype,
    ) -> None:
        weight, bias = (t if t is None else t.detach().to(dtype) for t in absorb(conv, norm))
        self._how = (conv.padding, conv.stride, conv.dilation, conv.groups)
        pack = _steps._reorder_convolution_weight  # noqa: SLF001
        self._one_row, self._rows = (
            pack(weight, *self._how, (rows, *shape[1:])) for rows in (1, _MANY)
        )
        if torch.equal(_layout(self._one_row), _layout(self._rows)):
            self._one_row = self._rows
        self._bias = bias

    def arguments(self, rows: int) -> tuple[object, ...]:
        """What a convolution of so many rows is called with."""
        several = torch.get_num_threads() > 1  # then they would share the row's channels
        weight = self._one_row if rows == 1 and several else self._rows
        return (weight, self._bias, *self._how)


def _layout(packed: Tensor) -> Tensor:
    """OneDNN's own description of it."""
    described: Tensor = _steps._get_mkldnn_serialized_md(packed)  # noqa: SLF001
    return described


class _LinearWeights:
    """Those of a linear layer: weight [K, C], bias [K]."""

    def __init__(self, weight: Tensor, bias: Tensor | None, dtype: torch.dtype) -> None:
        self._weight = weight.detach().to(dtype)
        self.bias = bias if bias is None else bias.detach().to(dtype)
        self.forward = _steps._reorder_linear_weight(self._weight, _TOKENS)  # noqa: SLF001

    @cached_property
    def backward(self) -> Tensor:
        """For the gradient with respect to the input; made when it is first asked for."""
        return _steps._reorder_linear_weight(self._weight.t().contiguous(), _TOKENS)  # type: ignore[no-any-return] # noqa: SLF001


class _Conv(Conv):
    """A convolution, and what comes behind it."""

    def __init__(self, weights: _ConvWeights, activation: Activation = NO_ACTIVATION) -> None:
        super().__init__()
        self.weights = weights
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


class _Linear(Layer):
    """A linear layer, and what comes behind it, where no gradient is asked for."""

    def __init__(self, weights: _LinearWeights, activation: Activation = NO_ACTIVATION) -> None:
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


class _Attention(Layer):
    """Self-attention, as ``nn.MultiheadAttention(x, x, x, need_weights=False)``."""

    def __init__(self, inwards: _LinearWeights, outwards: _LinearWeights, heads: int) -> None:
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


def _multiply(x: Tensor, weights: _LinearWeights, behind: Activation = NO_ACTIVATION) -> Tensor:
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
    def forward(ctx: Any, x: Tensor, weights: _LinearWeights) -> Tensor:  # noqa: ANN401 - torch's own
        ctx.weights = weights
        return _linear(x, weights.forward, weights.bias, NO_ACTIVATION)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:  # noqa: ANN401
        return _linear(gradient, ctx.weights.backward, None, NO_ACTIVATION), None
