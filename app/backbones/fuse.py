"""The trunk, rewritten for speed on a CPU: the same numbers from fewer and larger steps.

A convolution takes in the batch norm behind it (its weights absorb it), and the activation and the
residual addition behind that (oneDNN applies them while the result is still in the cache); its
weights are laid out for the processor once, and not in every call. This is what
``torch.compile`` gains on such models, without its minute and without a compiler.
"""

import operator
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, fx, nn
from torch.nn.utils.fusion import fuse_conv_bn_weights

# The steps that torch.compile uses, too.
_pack = torch.ops.mkldnn._reorder_convolution_weight  # noqa: SLF001 - torch has no public name
_convolve = torch.ops.mkldnn._convolution_pointwise  # noqa: SLF001
_MANY = 8  # rows of a typical batch

_ACTIVATIONS: dict[object, str] = {
    nn.ReLU: "relu",
    nn.SiLU: "swish",
    nn.Hardswish: "hardswish",
    nn.Hardsigmoid: "hardsigmoid",
    nn.Sigmoid: "sigmoid",
    nn.functional.relu: "relu",
    torch.relu: "relu",
}
_AFTER_ADDITION: dict[object, str] = {nn.ReLU: "relu"}  # what oneDNN applies behind an addition
_ADDITIONS = (operator.add, operator.iadd, torch.add)
_NOTHING = (nn.Dropout, nn.Dropout2d, nn.Identity)  # in eval mode


# By convolution, norm, and an input's shape without its rows: trunks of one model share them.
Packed = dict[tuple[nn.Conv2d, nn.BatchNorm2d | None, torch.Size], "_Weights"]


def can_fuse(example: Tensor) -> bool:
    """Whether this device and this build of torch have the steps for it."""
    return example.device.type == "cpu" and torch.backends.mkldnn.is_available()  # type: ignore[no-untyped-call]


def fuse(
    trunk: fx.GraphModule, dtype: torch.dtype = torch.float32, packed: Packed | None = None
) -> fx.GraphModule:
    """Fuse the convolutions of a trunk with what follows them.

    Args:
        trunk: in eval mode, parameters frozen. It is left as it is.
        dtype: in which the convolutions compute.
        packed: the convolutions that other trunks of the model have; new ones are added.

    Returns:
        A module of the same inputs and outputs, for use without gradients.
    """
    packed = {} if packed is None else packed
    graph = fx.Graph()
    graph.output(graph.graph_copy(trunk.graph, {}))
    fused = fx.GraphModule(trunk, graph, "FusedTrunk")
    for node in list(fused.graph.nodes):
        if isinstance(_module(fused, node), _NOTHING):
            _replace(node, node.all_input_nodes[0])
    for node in list(fused.graph.nodes):
        if type(_module(fused, node)) is nn.Conv2d and len(node.args) == 1:
            _fuse(fused, _chain(fused, node), dtype, packed)
    fused.graph.eliminate_dead_code()
    fused.delete_all_unused_submodules()
    fused.recompile()
    return fused


@dataclass(slots=True)
class _Chain:
    """A convolution and what it takes in; ``last`` is the value that the whole stands for."""

    conv: fx.Node
    last: fx.Node
    norm: nn.BatchNorm2d | None = None
    other: fx.Node | None = None  # is added
    activation: str | None = None


def _chain(module: fx.GraphModule, conv: fx.Node) -> _Chain:
    chain = _Chain(conv, conv)
    if (step := _only_user(chain.last)) and (norm := _norm(module, step)):
        chain.norm, chain.last = norm, step
    # An addition is done where its other summand is known: nothing may have changed the input then.
    may_wait = _only_user(conv.all_input_nodes[0])
    if may_wait and (step := _only_user(chain.last)) and (other := _summand(step, chain.last)):
        chain.other, chain.last = other, step
    known = _ACTIVATIONS if chain.other is None else _AFTER_ADDITION
    if (step := _only_user(chain.last)) and (activation := known.get(_called(module, step))):
        chain.activation, chain.last = activation, step
    return chain


def _fuse(module: fx.GraphModule, chain: _Chain, dtype: torch.dtype, packed: Packed) -> None:
    conv = module.get_submodule(str(chain.conv.target))
    assert isinstance(conv, nn.Conv2d)  # noqa: S101 - for the type checker
    if conv.padding_mode != "zeros" or isinstance(conv.padding, str):
        return
    name = f"fused_{chain.conv.name}"
    x = chain.conv.all_input_nodes[0]
    key = (conv, chain.norm, x.meta["shape"][1:])
    if key not in packed:
        packed[key] = _Weights(conv, chain.norm, x.meta["shape"], dtype)
    module.add_submodule(name, _Conv(packed[key], chain.activation))
    inputs = (x, chain.other) if chain.other else (x,)
    with module.graph.inserting_before(chain.last if chain.other else chain.conv):
        fused = module.graph.call_module(name, inputs)
    fused.meta["shape"] = chain.last.meta["shape"]
    _replace(chain.last, fused)


class _Weights:
    """Those of a convolution, with its batch norm inside, laid out for the processor.

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
        self._one_row, self._rows = (
            _pack(weight, *self._how, (rows, *shape[1:])) for rows in (1, _MANY)
        )
        self._bias = bias

    def arguments(self, rows: int) -> tuple[object, ...]:
        """What a convolution of so many rows is called with."""
        return (self._one_row if rows == 1 else self._rows, self._bias, *self._how)


class _Conv(nn.Module):
    """A convolution, and what comes behind it."""

    def __init__(self, weights: _Weights, activation: str | None) -> None:
        super().__init__()
        self.weights = weights
        self._activation = activation

    def __deepcopy__(self, _memo: object) -> "_Conv":
        return self  # frozen

    def forward(self, x: Tensor, other: Tensor | None = None) -> Tensor:
        """[N, C, H, W] → [N, K, h, w]; ``other``, of the shape of the result, is added."""
        what = self.weights.arguments(len(x))
        result: Tensor = (
            _convolve(x, *what, self._activation or "none", [], "")
            if other is None
            else _convolve.binary(x, other, *what, "add", 1.0, self._activation, [], "")
        )
        return result


def _absorb(conv: nn.Conv2d, norm: nn.BatchNorm2d | None) -> tuple[Tensor, Tensor | None]:
    """Weight and bias of a convolution that does the norm's work too."""
    if norm is None:
        return conv.weight, conv.bias
    mean, variance = norm.running_mean, norm.running_var
    assert mean is not None  # noqa: S101 - _norm saw to it
    assert variance is not None  # noqa: S101
    return fuse_conv_bn_weights(
        conv.weight, conv.bias, mean, variance, norm.eps, norm.weight, norm.bias
    )


def _module(module: fx.GraphModule, node: fx.Node) -> nn.Module | None:
    if node.op != "call_module":
        return None
    return module.get_submodule(str(node.target))


def _only_user(node: fx.Node) -> fx.Node | None:
    return next(iter(node.users)) if len(node.users) == 1 else None


def _called(module: fx.GraphModule, node: fx.Node) -> object:
    """The module's class, or the function."""
    called = _module(module, node)
    return node.target if called is None else type(called)


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
