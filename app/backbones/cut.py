"""Cut a classifier in two where prediction becomes explanation.

``forward_features(x) → activations`` runs without autograd; ``forward_head(activations)`` runs with
it, so that the gradient of a class costs a pass through the head alone.

The place is found in the traced graph: the last value that is the only one alive there, is spatial
(a map of more than one cell, or tokens), and whose gradient is non-zero in at least half of its
cells; poolings before it are walked back, so that VGG's map keeps its own resolution.
"""

import inspect
from collections.abc import Callable, Sequence
from functools import cached_property
from typing import Any

import torch
from torch import Tensor, fx, nn

from app.backbones.grid import Grid, read_grid
from app.backbones.parts import Cut, Parts
from app.backbones.tracing import GATE
from app.errors import ModelCheckFailed

_POOLINGS = (
    nn.AdaptiveAvgPool2d, nn.AdaptiveMaxPool2d, nn.AvgPool2d, nn.MaxPool2d, nn.Dropout, nn.Identity,
)  # fmt: skip
_LIVE_SHARE = 0.5  # of the cells must have a gradient


class Cutter:
    """Finds and makes the cuts of one model.

    Args:
        model: in eval mode, on its device, its parameters frozen.
        example: an input, [1, 3, H, W], on the same device.
        fused: whether trunks are rewritten for speed, where the device has a way to.
        dtype: in which trunks compute.

    Raises:
        Untraceable: see ``HookedCutter``.
        ModelCheckFailed: the model has nothing to cut.
    """

    def __init__(
        self,
        model: nn.Module,
        example: Tensor,
        *,
        fused: bool = True,
        dtype: torch.dtype = torch.float32,
    ) -> None:
        self._model = model
        self._graph, self._outputs = _trace(model)
        self.module = fx.GraphModule(model, self._graph)
        self._grids = _usable(self.module, example)
        self._parts = Parts(model, example, dtype, fused=fused)
        self._clean = _clean_values(self._graph)

    @cached_property
    def layers(self) -> dict[str, Grid]:
        """Every place that can be asked for, in the order of the computation."""
        return {self._name(node): grid for node, grid in self._grids.items()}

    def aliases(self, layer: str) -> tuple[str, ...]:
        """Other module paths to the same value: a block is where its last part is."""
        node = self._find(layer)
        return tuple(path for path, output in self._outputs.items()
                     if output is node and path not in {layer, ""})  # fmt: skip

    @cached_property
    def default(self) -> str:
        """The name of the model's own cut."""
        candidates = [node for node in self._grids if node in self._clean]
        if not candidates:
            raise ModelCheckFailed("no layer of the model is a map that its classes depend on")
        node = candidates[-1]
        while self._is_pooling(node) and node.all_input_nodes[0] in self._grids:
            node = node.all_input_nodes[0]
        return self._name(node)

    def cut(self, *layers: str, trunk: nn.Module | None = None) -> Cut:
        """Cut so that these layers can be explained: each one of ``layers``, or a path to one.

        Args:
            layers: their names.
            trunk: in place of the one that would be made.

        Raises:
            KeyError: there is no such layer, or it holds no map.
        """
        targets = [self._find(layer) for layer in layers]
        nodes = list(self._graph.nodes)
        start = self._start(nodes, targets)
        return Cut(
            layers=tuple(map(self._name, targets)),
            grids=tuple(self._grids[target] for target in targets),
            forward_features=trunk or self._parts.trunk(nodes, start),
            forward_head=self._parts.head(nodes, start, targets),
        )

    def portable_trunk(self, layer: str) -> nn.Module:
        """The trunk of the cut at a layer, of steps that a compiler knows."""
        nodes = list(self._graph.nodes)
        return self._parts.portable_trunk(nodes, self._start(nodes, [self._find(layer)]))

    def _start(self, nodes: list[fx.Node], targets: Sequence[fx.Node]) -> fx.Node:
        """Where the head begins: at the last clean value before the first target.

        Before the first clean value lies the input: then all of the model is the head.
        """
        upto = min(map(nodes.index, targets))
        return next((n for n in reversed(nodes[: upto + 1]) if n in self._clean), nodes[0])

    def _find(self, layer: str) -> fx.Node:
        named = {node.name: node for node in self._grids}
        node = self._outputs.get(layer, named.get(layer))
        if node is None or node not in self._grids:
            raise KeyError(layer)
        return node

    def _name(self, node: fx.Node) -> str:
        """The shortest module path whose output the value is, else the graph's own name for it."""
        paths = [path for path, output in self._outputs.items() if output is node]
        return min(paths, key=len, default=node.name)

    def _is_pooling(self, node: fx.Node) -> bool:
        return node.op == "call_module" and isinstance(
            self._model.get_submodule(str(node.target)), _POOLINGS
        )


class Untraceable(Exception):
    """The model's code decides by values, which torch.fx does not know."""


class _Tracer(fx.Tracer):
    """Remembers which value each module returned."""

    def __init__(self) -> None:
        super().__init__()
        self.outputs: dict[str, fx.Node] = {}

    def call_module(
        self,
        m: nn.Module,
        forward: Callable[..., Any],
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
    ) -> Any:  # noqa: ANN401 - fx's own signature
        result = super().call_module(m, forward, args, kwargs)
        if isinstance(result, fx.Proxy):
            self.outputs[self.path_of_module(m)] = result.node
        return result


def _trace(model: nn.Module) -> tuple[fx.Graph, dict[str, fx.Node]]:
    tracer = _Tracer()
    _, *others = inspect.signature(model.forward).parameters.values()
    defaults = {p.name: p.default for p in others if p.default is not p.empty}
    try:
        with GATE.tracing():
            graph = tracer.trace(model, concrete_args=defaults)
    except Exception as exc:
        # What a model does with values that have no value yet can fail in any way.
        raise Untraceable(f"the model cannot be traced by torch.fx: {exc}") from exc
    return graph, tracer.outputs


def _usable(module: fx.GraphModule, example: Tensor) -> dict[fx.Node, Grid]:
    """The values that are maps and carry gradient in at least half of their cells."""
    recorder = _Recorder(module)
    with torch.enable_grad():
        logits = recorder.run(example.clone().requires_grad_())
        top = logits[0].max()
    maps = {
        node: (grid, value)
        for node, value in recorder.values.items()
        if value.requires_grad and (grid := read_grid(value, example))
    }
    if not maps:
        return {}
    values = [value for _, value in maps.values()]
    gradients: Sequence[Tensor | None] = torch.autograd.grad(top, values, allow_unused=True)
    return {
        node: grid
        for (node, (grid, _)), gradient in zip(maps.items(), gradients, strict=True)
        if is_live(grid, gradient)
    }


class _Recorder(fx.Interpreter):
    """Runs the graph and keeps every tensor, protected from later in-place changes."""

    def __init__(self, module: fx.GraphModule) -> None:
        super().__init__(module)
        self.values: dict[fx.Node, Tensor] = {}

    def run_node(self, n: fx.Node) -> object:
        value = super().run_node(n)
        if isinstance(value, Tensor):
            n.meta["shape"] = value.shape
        if isinstance(value, Tensor) and n.op not in {"placeholder", "get_attr", "output"}:
            self.values[n] = value
            return value.clone()  # an in-place ReLU behind it then changes the copy
        return value


def is_live(grid: Grid, gradient: Tensor | None) -> bool:
    """Whether a class depends on at least half of a value's cells."""
    if gradient is None:
        return False
    return float(grid.maps(gradient).any(dim=1).float().mean()) >= _LIVE_SHARE


def _clean_values(graph: fx.Graph) -> set[fx.Node]:
    """Values that are, when they are computed, the only one alive that depends on the input."""
    last_use = {parent: node for node in graph.nodes for parent in node.all_input_nodes}
    depends: set[fx.Node] = set()
    alive: set[fx.Node] = set()
    clean: set[fx.Node] = set()
    for node in graph.nodes:
        if node.op == "placeholder" or any(parent in depends for parent in node.all_input_nodes):
            depends.add(node)
            alive.add(node)
        alive = {value for value in alive if last_use.get(value) not in {node, None}}
        if alive == {node} and node.op != "placeholder":
            clean.add(node)
    return clean
