"""A graph, rewritten for speed on a CPU: the same numbers from fewer and larger steps.

A convolution takes in the batch norm behind it (its weights absorb it), and a convolution or a
linear layer the activation and the residual addition behind that; ``packed.py`` has what is put in
their place. This is what ``torch.compile`` gains on such models, and on an AMD processor more,
without its minute and without a compiler.
"""

import operator
from dataclasses import dataclass, field

import torch
from torch import Tensor, fx, nn
from torchvision.ops import stochastic_depth

from app.backbones.packed import (
    NO_ACTIVATION,
    Activation,
    Attention,
    Conv,
    ConvWeights,
    Linear,
    LinearWeights,
)
from app.backbones.rewire import is_self_attention

_ACTIVATIONS: dict[object, Activation] = {
    nn.ReLU: Activation("relu"),
    nn.SiLU: Activation("swish"),
    nn.Hardswish: Activation("hardswish"),
    nn.Hardsigmoid: Activation("hardsigmoid"),
    nn.Sigmoid: Activation("sigmoid"),
    nn.functional.relu: Activation("relu"),
    torch.relu: Activation("relu"),
}
_RELU = _ACTIVATIONS[nn.ReLU]  # the one that oneDNN applies behind a convolution's addition
_ADDITIONS = (operator.add, operator.iadd, torch.add)
_NOTHING = {nn.Dropout, nn.Dropout2d, nn.Identity, stochastic_depth}  # in eval mode
_TOKENS_NDIM = 3  # below, a linear layer has a row a picture: there is nothing to gain


@dataclass(frozen=True, slots=True)
class Packed:
    """The weights that graphs of one model share, and in which type they compute."""

    dtype: torch.dtype = torch.float32
    _known: dict[object, ConvWeights | LinearWeights] = field(default_factory=dict)

    def conv(self, conv: nn.Conv2d, norm: nn.BatchNorm2d | None, shape: torch.Size) -> ConvWeights:
        """Those of a convolution, for inputs of this shape but for their rows."""
        key = (conv, norm, shape[1:])
        if key not in self._known:
            self._known[key] = ConvWeights(conv, norm, shape, self.dtype)
        return self._known[key]  # type: ignore[return-value]

    def linear(self, weight: Tensor, bias: Tensor | None) -> LinearWeights:
        """Those of a linear layer."""
        key = id(weight)  # of a parameter of the model, which lives longer
        if key not in self._known:
            self._known[key] = LinearWeights(weight, bias, self.dtype)
        return self._known[key]  # type: ignore[return-value]


def can_fuse(example: Tensor) -> bool:
    """Whether this device and this build of torch have the steps for it."""
    return example.device.type == "cpu" and torch.backends.mkldnn.is_available()  # type: ignore[no-untyped-call]


def fuse(graph_module: fx.GraphModule, packed: Packed | None = None) -> fx.GraphModule:
    """Fuse convolutions and linear layers with what follows them.

    Args:
        graph_module: in eval mode, parameters frozen. It is left as it is.
        packed: the weights that other graphs of the model have; new ones are added.

    Returns:
        A module of the same inputs and outputs, for use without gradients.
    """
    packed = packed or Packed()
    fused = _copy(graph_module)
    for node in list(fused.graph.nodes):
        if _called(fused, node) in _NOTHING:
            _replace(node, node.all_input_nodes[0])
    for node in list(fused.graph.nodes):
        if type(_module(fused, node)) is nn.Conv2d and len(node.args) == 1:
            _fuse_conv(fused, node, packed)
        elif _is_linear(fused, node, packed):
            _fuse_linear(fused, _chain(fused, node), packed)
    fused = _tidy(_pack_attention(fused, packed))
    _reuse_memory(fused)
    return fused


def pack(graph_module: fx.GraphModule, packed: Packed) -> fx.GraphModule:
    """As ``fuse``, for use with gradients: linear layers and attention alone, nothing taken in."""
    module = _copy(graph_module)
    for node in list(module.graph.nodes):
        if _is_linear(module, node, packed):
            _fuse_linear(module, _Chain(node, node), packed)
    return _tidy(_pack_attention(module, packed))


@dataclass(slots=True)
class _Chain:
    """A layer and what it takes in; ``last`` is the value that the whole stands for."""

    first: fx.Node
    last: fx.Node
    norm: nn.BatchNorm2d | None = None
    other: fx.Node | None = None  # is added
    activation: Activation = NO_ACTIVATION


def _chain(module: fx.GraphModule, first: fx.Node) -> _Chain:
    chain = _Chain(first, first)
    of_conv = type(_module(module, first)) is nn.Conv2d
    if of_conv and (step := _only_user(chain.last)) and (norm := _norm(module, step)):
        chain.norm, chain.last = norm, step
    # An addition is done where its other summand is known: nothing may have changed the input then.
    may_wait = _only_user(first.all_input_nodes[0])
    if may_wait and (step := _only_user(chain.last)) and (other := _summand(step, chain.last)):
        chain.other, chain.last = other, step
    known = (step := _only_user(chain.last)) and _activation(module, step)
    if step and known and (chain.other is None or (of_conv and known == _RELU)):
        chain.activation, chain.last = known, step
    return chain


def _fuse_conv(module: fx.GraphModule, node: fx.Node, packed: Packed) -> None:
    conv = module.get_submodule(str(node.target))
    assert isinstance(conv, nn.Conv2d)  # noqa: S101 - for the type checker
    if conv.padding_mode == "zeros" and not isinstance(conv.padding, str):
        chain = _chain(module, node)
        weights = packed.conv(conv, chain.norm, node.all_input_nodes[0].meta["shape"])
        _put(module, chain, Conv(weights, chain.activation))


def _fuse_linear(module: fx.GraphModule, chain: _Chain, packed: Packed) -> None:
    layer = module.get_submodule(str(chain.first.target))
    assert isinstance(layer, nn.Linear)  # noqa: S101 - for the type checker
    _put(module, chain, Linear(packed.linear(layer.weight, layer.bias), chain.activation))


def _put(module: fx.GraphModule, chain: _Chain, layer: nn.Module) -> None:
    """Put a layer in the place of a chain."""
    name = f"fused_{chain.first.name}"
    module.add_submodule(name, layer)
    x = chain.first.all_input_nodes[0]
    with module.graph.inserting_before(chain.last if chain.other else chain.first):
        fused = module.graph.call_module(name, (x, chain.other) if chain.other else (x,))
    fused.meta["shape"] = chain.last.meta["shape"]
    _replace(chain.last, fused)


def _reuse_memory(module: fx.GraphModule) -> None:
    """Let sums be made in the memory of a summand that nobody reads afterwards.

    It must be a convolution's own, and read by convolutions alone: other steps might keep a view.
    """
    place = {node: n for n, node in enumerate(module.graph.nodes)}
    for node in module.graph.nodes:
        layer = _module(module, node)
        if not isinstance(layer, Conv) or len(set(node.all_input_nodes)) == 1:
            continue
        other = node.all_input_nodes[1]
        readers = [reader for reader in other.users if reader is not node]
        layer.in_place = isinstance(_module(module, other), Conv) and all(
            isinstance(_module(module, reader), Conv) and place[reader] < place[node]
            for reader in readers
        )


def _pack_attention(module: fx.GraphModule, packed: Packed) -> fx.GraphModule:
    for node in list(module.graph.nodes):
        layer = _module(module, node)
        if isinstance(layer, nn.MultiheadAttention) and _can_pack(module, node, layer, packed):
            weights = (
                packed.linear(layer.in_proj_weight, layer.in_proj_bias),
                packed.linear(layer.out_proj.weight, layer.out_proj.bias),
            )
            name = f"fused_{node.name}"
            module.add_submodule(name, Attention(*weights, layer.num_heads))
            with module.graph.inserting_before(node):
                attention = module.graph.call_module(name, (node.args[0],))
            _replace(node, attention)
    return module


def _can_pack(
    module: fx.GraphModule, node: fx.Node, layer: nn.MultiheadAttention, packed: Packed
) -> bool:
    plain = layer.bias_k is None and not layer.add_zero_attn and layer.in_proj_weight is not None
    silent = node.kwargs.get("need_weights") is False
    return plain and silent and is_self_attention(module, node) and _can_multiply(packed.dtype)


def _is_linear(module: fx.GraphModule, node: fx.Node, packed: Packed) -> bool:
    if type(_module(module, node)) is not nn.Linear or len(node.args) != 1:
        return False
    return len(node.meta.get("shape", ())) >= _TOKENS_NDIM and _can_multiply(packed.dtype)


def _can_multiply(dtype: torch.dtype) -> bool:
    """Whether the processor has oneDNN's products of this type."""
    able = {
        torch.bfloat16: torch.ops.mkldnn._is_mkldnn_bf16_supported,  # noqa: SLF001
        torch.float16: torch.ops.mkldnn._is_mkldnn_fp16_supported,  # noqa: SLF001
    }
    return dtype == torch.float32 or (dtype in able and able[dtype]())


def _copy(graph_module: fx.GraphModule) -> fx.GraphModule:
    graph = fx.Graph()
    graph.output(graph.graph_copy(graph_module.graph, {}))
    return fx.GraphModule(graph_module, graph, "Fused")


def _tidy(module: fx.GraphModule) -> fx.GraphModule:
    module.graph.eliminate_dead_code()
    module.delete_all_unused_submodules()
    module.recompile()
    return module


def _module(module: fx.GraphModule, node: fx.Node) -> nn.Module | None:
    if node.op != "call_module":
        return None
    return module.get_submodule(str(node.target))


def _only_user(node: fx.Node) -> fx.Node | None:
    return next(iter(node.users)) if len(node.users) == 1 else None


def _activation(module: fx.GraphModule, node: fx.Node) -> Activation | None:
    layer = _module(module, node)
    if isinstance(layer, nn.GELU):
        return Activation("gelu", layer.approximate)
    return _ACTIVATIONS.get(_called(module, node))


def _called(module: fx.GraphModule, node: fx.Node) -> object:
    """The module's class, or the function."""
    layer = _module(module, node)
    return node.target if layer is None else type(layer)


def _norm(module: fx.GraphModule, node: fx.Node) -> nn.BatchNorm2d | None:
    norm = _module(module, node)
    has_statistics = isinstance(norm, nn.BatchNorm2d) and norm.running_mean is not None
    return norm if has_statistics else None  # type: ignore[return-value]


def _summand(addition: fx.Node, summand: fx.Node) -> fx.Node | None:
    """What is added to a value, where that is another value of the same shape."""
    if addition.target not in _ADDITIONS or addition.kwargs:
        return None
    if addition.meta["shape"] != summand.meta["shape"]:
        return None  # it is the smaller one
    others = [other for other in addition.all_input_nodes if other is not summand]
    same = [other for other in others if other.meta.get("shape") == addition.meta["shape"]]
    return same[0] if same else None


def _replace(node: fx.Node, by: fx.Node) -> None:
    node.replace_all_uses_with(by)
    node.graph.erase_node(node)
