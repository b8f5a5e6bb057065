"""The two parts of a classifier that was cut in two."""

import copy
import operator
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from weakref import WeakValueDictionary

import torch
from torch import Tensor, fx, nn

from app.backbones.fuse import fuse, kit_for, pack
from app.backbones.grid import Grid


@dataclass(frozen=True)
class Cut:
    """A classifier in two parts.

    ``forward_head`` returns ``(logits, *targets)``; a target is a value to explain: the activations
    themselves where the cut is clean, else a value inside the head; one for each of ``layers``.
    """

    layers: tuple[str, ...]
    grids: tuple[Grid, ...]
    forward_features: nn.Module
    forward_head: nn.Module

    @property
    def is_clean(self) -> bool:
        """Whether the head takes the explained value itself."""
        head = self.forward_head
        if not isinstance(head, fx.GraphModule):
            return False
        (output,) = (node for node in head.graph.nodes if node.op == "output")
        _, *targets = output.args[0]
        return [target.op for target in targets] == ["placeholder"]

    @cached_property
    def linear(self) -> Tensor | None:
        """The head's weight, [classes, C], where that is average pooling and one linear layer."""
        head = self.forward_head
        clean = isinstance(head, fx.GraphModule) and self.is_clean
        return _linear_after_pooling(head) if clean else None  # type: ignore[arg-type]

    @cached_property
    def neck(self) -> "Neck | None":
        """The head without its last layer, where that is a linear one."""
        head = self.forward_head
        return _before_last(head) if isinstance(head, fx.GraphModule) else None

    @property
    def layer(self) -> str:
        """The layers' names, with commas between."""
        return ",".join(self.layers)

    @property
    def grid(self) -> Grid:
        """That of the first layer."""
        return self.grids[0]


@dataclass(frozen=True)
class Neck:
    """A head up to its last layer.

    ``forward(activations)`` returns ``(features, *targets)`` with features [N, F]: ``last`` makes
    logits of them.
    """

    forward: nn.Module
    last: nn.Linear


class Parts:
    """Makes trunks and heads of one model; what they need beside its own weights, they share.

    Args:
        model: in eval mode, its parameters frozen.
        example: an input, on the model's device.
        dtype: in which trunks compute.
        fused: whether they are rewritten for speed, where the device has a kit for that.
    """

    def __init__(
        self, model: nn.Module, example: Tensor, dtype: torch.dtype, *, fused: bool
    ) -> None:
        self._model = model
        self._dtype = dtype
        self._kit = kit_for(example, dtype) if fused else None
        # Heads compute in float32: where trunks do, too, they share their weights.
        float32 = dtype == torch.float32
        self._head_kit = self._kit if float32 or not fused else kit_for(example, torch.float32)
        # Weights in that type, by the originals' ids, as long as a trunk uses them.
        self._copies: WeakValueDictionary[int, Tensor] = WeakValueDictionary()

    def trunk(self, nodes: list[fx.Node], stop: fx.Node) -> nn.Module:
        """From the input to a value: [N, 3, H, W] in float32 → that value, in ``dtype``."""
        trunk = _trunk(self._model, nodes, stop)
        if self._kit:
            fuse(trunk, self._kit)
        if self._dtype == torch.float32:
            return _free(trunk)
        return _Lowered(_free(self._lowered(trunk)), self._dtype)

    def portable_trunk(self, nodes: list[fx.Node], stop: fx.Node) -> nn.Module:
        """The same in float32, of PyTorch's own steps, as a compiler knows them."""
        return _trunk(self._model, nodes, stop)

    def head(
        self, nodes: list[fx.Node], start: fx.Node, targets: Sequence[fx.Node]
    ) -> fx.GraphModule:
        """From the value at ``start``, in float32, to ``(logits, *targets)``."""
        head = _head(self._model, nodes, start, targets)
        if self._head_kit:
            pack(head, self._head_kit)
        return head

    def _lowered(self, trunk: fx.GraphModule) -> fx.GraphModule:
        lowered: fx.GraphModule = copy.deepcopy(trunk, dict(self._copies)).to(self._dtype)
        for weight, copied in zip(trunk.parameters(), lowered.parameters(), strict=True):
            self._copies[id(weight)] = copied
        return lowered


class _Lowered(nn.Module):
    """A trunk that computes in another type."""

    def __init__(self, trunk: fx.GraphModule, dtype: torch.dtype) -> None:
        super().__init__()
        self.trunk = trunk
        self._dtype = dtype

    def forward(self, x: Tensor) -> Tensor:
        lowered: Tensor = self.trunk(x.to(self._dtype))
        return lowered


def _free(trunk: fx.GraphModule) -> fx.GraphModule:
    """It no longer refers to itself, else it would stay until the collector comes."""
    trunk.graph.owning_module = None
    return trunk


def _trunk(model: nn.Module, nodes: list[fx.Node], stop: fx.Node) -> fx.GraphModule:
    graph = fx.Graph()
    copies: dict[fx.Node, fx.Node] = {}
    for node in nodes[: nodes.index(stop) + 1]:
        copies[node] = graph.node_copy(node, copies.__getitem__)
    graph.output(copies[stop])
    return _module(model, graph, "Trunk")


def _head(
    model: nn.Module, nodes: list[fx.Node], start: fx.Node, targets: Sequence[fx.Node]
) -> fx.GraphModule:
    graph = fx.Graph()
    copies = {start: graph.placeholder("activations")}
    for node in _after(nodes, start):
        if node.op == "output":
            graph.output((copies[node.args[0]], *map(copies.__getitem__, targets)))  # type: ignore[index]
        else:
            copies[node] = _out_of_place(model, graph.node_copy(node, copies.__getitem__))
    return _module(model, graph, "Head")


def _module(model: nn.Module, graph: fx.Graph, name: str) -> fx.GraphModule:
    """A module that shares the model's parameters and holds nothing it does not use."""
    # It tells which steps have effects: code is written once, for the module to come.
    graph.owning_module = model  # type: ignore[assignment]
    graph.eliminate_dead_code()
    return fx.GraphModule(model, graph, name)


def _after(nodes: list[fx.Node], start: fx.Node) -> Iterator[fx.Node]:
    """What the head needs: all that follows the cut, and the parameters fetched before it."""
    index = nodes.index(start)
    yield from (node for node in nodes[:index] if node.op == "get_attr")
    yield from nodes[index + 1 :]


def _out_of_place(model: nn.Module, node: fx.Node) -> fx.Node:
    """The head must not overwrite values whose gradient is asked for."""
    if node.op == "call_module":
        module = model.get_submodule(str(node.target))
        if hasattr(module, "inplace"):
            module.inplace = False  # type: ignore[assignment]
    if node.target is operator.iadd:
        node.target = operator.add
    if node.kwargs.get("inplace"):
        node.kwargs = {**node.kwargs, "inplace": False}
    return node


def _before_last(head: fx.GraphModule) -> Neck | None:
    *steps, output = head.graph.nodes
    logits, *targets = output.args[0]
    last = head.get_submodule(str(logits.target)) if logits.op == "call_module" else None
    if type(last) is not nn.Linear:
        return None
    graph = fx.Graph()
    copies: dict[fx.Node, fx.Node] = {}
    for node in steps:
        if node is not logits:
            copies[node] = graph.node_copy(node, copies.__getitem__)
    graph.output((copies[logits.args[0]], *map(copies.__getitem__, targets)))
    return Neck(_module(head, graph, "Neck"), last)


def _linear_after_pooling(head: fx.GraphModule) -> Tensor | None:
    """The classifier's weight [classes, C] where the head is global average pooling and linear."""
    pooled, weight = False, None
    for node in head.graph.nodes:
        module = head.get_submodule(str(node.target)) if node.op == "call_module" else None
        if _pools(node, module):
            pooled = True
        elif isinstance(module, nn.Linear) and pooled and weight is None:
            weight = module.weight
        elif not _changes_nothing(node, module):
            return None
    return weight


def _pools(node: fx.Node, module: nn.Module | None) -> bool:
    """Whether it is the mean of each channel."""
    if isinstance(module, nn.AdaptiveAvgPool2d):
        return module.output_size in (1, (1, 1))
    dims = node.args[1] if node.target == "mean" and len(node.args) > 1 else ()
    return isinstance(dims, (tuple, list)) and {d % 4 for d in dims} == {2, 3}


def _changes_nothing(node: fx.Node, module: nn.Module | None) -> bool:
    """Whether it only gives pooled numbers another shape, in eval mode."""
    known = isinstance(module, (nn.Flatten, nn.Dropout)) or node.target is torch.flatten
    return known or node.op in {"placeholder", "output"}
