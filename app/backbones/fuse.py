"""A graph, rewritten for speed: the same numbers from fewer and larger steps.

A convolution takes in the batch norm behind it (its weights absorb it), and a convolution or a
linear layer the activation and the residual addition behind that, as far as the device's kit has a
layer for it: ``onednn.py`` of a processor, ``cudnn.py`` of a GPU. This is what ``torch.compile``
gains on such models, and on an AMD processor more, without its minute and without a compiler.
"""

import operator
from collections.abc import Iterator
from dataclasses import dataclass, replace

import torch
from torch import Tensor, fx, nn
from torchvision.ops import stochastic_depth

from app.backbones.cudnn import CuDnn
from app.backbones.kit import NO_ACTIVATION, RELU, Activation, Behind, Conv, Kit, Layer
from app.backbones.onednn import OneDnn
from app.backbones.rewire import is_self_attention

_ACTIVATIONS: dict[object, Activation] = {
    nn.ReLU: RELU,
    nn.SiLU: Activation("swish"),
    nn.Hardswish: Activation("hardswish"),
    nn.Hardsigmoid: Activation("hardsigmoid"),
    nn.Sigmoid: Activation("sigmoid"),
    nn.functional.relu: RELU,
    torch.relu: RELU,
}
_ADDITIONS = (operator.add, operator.iadd, torch.add)
_NOTHING = {nn.Dropout, nn.Dropout2d, nn.Identity, stochastic_depth}  # in eval mode
_TOKENS_NDIM = 3  # below, a linear layer has a row a picture: there is nothing to gain


def kit_for(example: Tensor, dtype: torch.dtype) -> Kit | None:
    """The kit for an input's device, or None: this build of torch has none for it."""
    if example.device.type == "cuda" and torch.backends.cudnn.is_available():  # type: ignore[no-untyped-call]
        return CuDnn(dtype)
    if example.device.type == "cpu" and torch.backends.mkldnn.is_available():  # type: ignore[no-untyped-call]
        return OneDnn(dtype)
    return None


def fuse(module: fx.GraphModule, kit: Kit) -> None:
    """Fuse convolutions and linear layers with what follows them.

    Args:
        module: in eval mode, parameters frozen. It is changed: from now on without gradients.
        kit: makes the layers, and keeps their weights for other graphs of the model.
    """
    for node in list(module.graph.nodes):
        if _called(module, node) in _NOTHING:
            _replace(node, node.all_input_nodes[0])
    for node in list(module.graph.nodes):
        if type(_module(module, node)) is nn.Conv2d and len(node.args) == 1:
            _fuse_conv(module, node, kit)
        elif _is_linear(module, node):
            _fuse_linear(module, list(_behind(module, _Chain(node, node))), kit)
    _replace_attention(module, kit)
    _tidy(module)
    _reuse_memory(module)


def pack(module: fx.GraphModule, kit: Kit) -> None:
    """As ``fuse``, for use with gradients: linear layers and attention alone, nothing taken in."""
    for node in list(module.graph.nodes):
        if _is_linear(module, node):
            _fuse_linear(module, [_Chain(node, node)], kit)
    _replace_attention(module, kit)
    _tidy(module)


@dataclass(frozen=True, slots=True)
class _Chain:
    """A layer and what it takes in; ``last`` is the value that the whole stands for."""

    first: fx.Node
    last: fx.Node
    norm: nn.BatchNorm2d | None = None
    other: fx.Node | None = None  # is added
    activation: Activation = NO_ACTIVATION

    @property
    def behind(self) -> Behind:
        return Behind(self.other is not None, self.activation)


def _behind(module: fx.GraphModule, chain: _Chain) -> Iterator[_Chain]:
    """Chains with more and more behind the layer: itself, a sum, an activation."""
    yield chain
    # An addition is done where its other summand is known: nothing may have changed the input then.
    may_wait = _only_user(chain.first.all_input_nodes[0])
    if may_wait and (step := _only_user(chain.last)) and (other := _summand(step, chain.last)):
        chain = replace(chain, other=other, last=step)
        yield chain
    if (step := _only_user(chain.last)) and (known := _activation(module, step)):
        yield replace(chain, activation=known, last=step)


def _fuse_conv(module: fx.GraphModule, node: fx.Node, kit: Kit) -> None:
    conv = module.get_submodule(str(node.target))
    assert isinstance(conv, nn.Conv2d)  # noqa: S101 - for the type checker
    if conv.padding_mode != "zeros" or isinstance(conv.padding, str):
        return
    chain = _Chain(node, node)
    if (step := _only_user(node)) and (norm := _norm(module, step)):
        chain = replace(chain, norm=norm, last=step)
    for longest in reversed(list(_behind(module, chain))):
        layer = kit.conv(conv, chain.norm, node.all_input_nodes[0].meta["shape"], longest.behind)
        if layer:
            _put(module, longest, layer)
            return


def _fuse_linear(module: fx.GraphModule, chains: list[_Chain], kit: Kit) -> None:
    linear = module.get_submodule(str(chains[0].first.target))
    assert isinstance(linear, nn.Linear)  # noqa: S101 - for the type checker
    for longest in reversed(chains):
        layer = kit.linear(linear.weight, linear.bias, longest.behind)
        if layer:
            _put(module, longest, layer)
            return


def _put(module: fx.GraphModule, chain: _Chain, layer: Layer) -> None:
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


def _replace_attention(module: fx.GraphModule, kit: Kit) -> None:
    for node in list(module.graph.nodes):
        layer = _module(module, node)
        if not isinstance(layer, nn.MultiheadAttention) or not is_self_attention(module, node):
            continue
        silent = node.kwargs.get("need_weights") is False
        attention = kit.attention(layer) if silent else None
        if attention:
            name = f"fused_{node.name}"
            module.add_submodule(name, attention)
            with module.graph.inserting_before(node):
                replacement = module.graph.call_module(name, (node.args[0],))
            _replace(node, replacement)


def _is_linear(module: fx.GraphModule, node: fx.Node) -> bool:
    if type(_module(module, node)) is not nn.Linear or len(node.args) != 1:
        return False
    return len(node.meta.get("shape", ())) >= _TOKENS_NDIM


def _tidy(module: fx.GraphModule) -> None:
    module.graph.eliminate_dead_code()
    module.delete_all_unused_submodules()
    module.recompile()


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
