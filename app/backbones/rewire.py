"""A model's graph, run so that it shows more: guided gradients, attention.

Nothing is changed in the model, and nothing is hooked: an interpreter walks the graph and takes a
few of its steps in another way.
"""

from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.nn import functional

_RELU_FUNCTIONS = (functional.relu, torch.relu, torch.relu_)
_RELU_METHODS = ("relu", "relu_")


def has_relu(module: fx.GraphModule) -> bool:
    """Whether there is anything to guide."""
    return any(_is_relu(module, node) for node in module.graph.nodes)


def has_attention(module: fx.GraphModule) -> bool:
    """Whether there is self-attention that can be shown."""
    return any(is_self_attention(module, node) for node in module.graph.nodes)


def guided(module: fx.GraphModule, x: Tensor) -> Tensor:
    """Guided backpropagation (Springenberg et al. 2014, https://arxiv.org/abs/1412.6806).

    Args:
        module: the traced model.
        x: [N, 3, H, W].

    Returns:
        The logits, [N, classes]; gradients through them drop what is negative at every ReLU.
    """
    logits: Tensor = _Guided(module).run(x)
    return logits


def attend(module: fx.GraphModule, x: Tensor) -> tuple[Tensor, list[Tensor]]:
    """Run a transformer, and keep the attention of each block on the way to its logits.

    Args:
        module: the traced model.
        x: [N, 3, H, W].

    Returns:
        The logits, [N, classes], and for each block [N, heads, T, T].
    """
    interpreter = _Attending(module)
    logits: Tensor = interpreter.run(x)
    return logits, interpreter.attention


class _GuidedReLU(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:  # noqa: ANN401 - torch's own
        ctx.save_for_backward(x)
        return x.clamp(min=0)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:  # noqa: ANN401
        (x,) = ctx.saved_tensors
        guided: Tensor = gradient.clamp(min=0) * (x > 0)
        return guided


class _Guided(fx.Interpreter):
    def run_node(self, n: fx.Node) -> object:
        if _is_relu(self.module, n):
            args, _ = self.fetch_args_kwargs_from_env(n)
            return _GuidedReLU.apply(args[0])
        return super().run_node(n)


class _Attending(fx.Interpreter):
    def __init__(self, module: fx.GraphModule) -> None:
        super().__init__(module)
        self.attention: list[Tensor] = []

    def run_node(self, n: fx.Node) -> object:
        if is_self_attention(self.module, n):
            args, _ = self.fetch_args_kwargs_from_env(n)
            layer = self.fetch_attr(str(n.target))
            output, weights = _self_attention(layer, args[0])
            self.attention.append(weights)
            return output, None  # as with need_weights=False
        return super().run_node(n)


def _self_attention(layer: nn.MultiheadAttention, x: Tensor) -> tuple[Tensor, Tensor]:
    """What the layer does, with the weights on the way: [N, T, C] → the same, [N, heads, T, T]."""
    n, tokens, channels = x.shape
    parts = functional.linear(x, layer.in_proj_weight, layer.in_proj_bias)
    shape = (n, tokens, 3, layer.num_heads, channels // layer.num_heads)
    query, key, value = parts.view(shape).permute(2, 0, 3, 1, 4)  # each [N, heads, T, c]
    weights = torch.softmax(query @ key.transpose(2, 3) * query.shape[-1] ** -0.5, dim=-1)
    mixed = (weights @ value).transpose(1, 2).reshape(n, tokens, channels)
    return layer.out_proj(mixed), weights


def _is_relu(module: nn.Module, node: fx.Node) -> bool:
    if node.op == "call_module":
        return isinstance(module.get_submodule(str(node.target)), nn.ReLU)
    names = {"call_function": _RELU_FUNCTIONS, "call_method": _RELU_METHODS}
    return node.target in names.get(node.op, ())


def is_self_attention(module: nn.Module, node: fx.Node) -> bool:
    """Whether a step is the attention of tokens to one another, in a form that can be rewritten."""
    if node.op != "call_module":
        return False
    layer = module.get_submodule(str(node.target))
    of_itself = len(node.args) == 3 and len(set(node.args)) == 1  # noqa: PLR2004 - query, key, value
    plain = of_itself and set(node.kwargs) <= {"need_weights"}
    return isinstance(layer, nn.MultiheadAttention) and layer.batch_first and plain
