"""The cut of a model that cannot be traced: forward hooks, there from the beginning.

The whole model runs in ``forward_head``. At the layer its value is taken out of the graph, so that
gradients reach from the logits to there and no further; what comes before costs no autograd.
"""

from collections.abc import Sequence
from collections.abc import Set as AbstractSet
from contextvars import ContextVar
from functools import cached_property, partial

import torch
from torch import Tensor, nn

from app.backbones.cut import is_live
from app.backbones.grid import Grid, read_grid
from app.backbones.parts import Cut
from app.errors import ModelCheckFailed


class HookedCutter:
    """Makes the cuts of one model without its graph; the same surface as ``Cutter``.

    Args:
        model: in eval mode, on its device, its parameters frozen.
        example: an input, [1, 3, H, W], on the same device.
    """

    def __init__(self, model: nn.Module, example: Tensor) -> None:
        self.module = model
        self._example = example
        self._hooks = _Hooks(model)

    @cached_property
    def layers(self) -> dict[str, Grid]:
        """Every module whose value is a map with gradient in half of its cells, in order."""
        with torch.enable_grad():
            logits, values = self._hooks.run(self._example, set(self._hooks.names))
            found = torch.autograd.grad(logits[0].max(), list(values.values()), allow_unused=True)
        layers = {}
        for (name, value), gradient in zip(values.items(), found, strict=True):
            grid = read_grid(value, self._example)
            if grid and is_live(grid, gradient):
                layers[name] = grid
        return layers

    def aliases(self, _layer: str) -> tuple[str, ...]:
        """None are known."""
        return ()

    @cached_property
    def default(self) -> str:
        """The last stage or block: what lies inside one may be a branch of it."""
        whole = [
            name for name in self.layers if name.rpartition(".")[2].isdigit() or "." not in name
        ]
        if not self.layers:
            raise ModelCheckFailed("no layer of the model is a map that its classes depend on")
        return (whole or list(self.layers))[-1]

    def cut(self, *layers: str) -> Cut:
        """Let these layers be explained.

        Raises:
            KeyError: there is no such layer, or it holds no map.
        """
        grids = tuple(self.layers[layer] for layer in layers)
        return Cut(layers, grids, _Detach(), _Watched(self._hooks, layers))


class _Hooks:
    """A hook on every module, which does nothing but while somebody watches, in that thread."""

    def __init__(self, model: nn.Module) -> None:
        self._model = model
        self._watched: ContextVar[tuple[AbstractSet[str], dict[str, Tensor]] | None] = ContextVar(
            "watched", default=None
        )
        self.names = [name for name, _ in model.named_modules() if name]
        for name in self.names:
            model.get_submodule(name).register_forward_hook(partial(self._keep, name))

    def run(self, x: Tensor, names: AbstractSet[str]) -> tuple[Tensor, dict[str, Tensor]]:
        """The logits, [N, classes], and the values of some modules in the order they came."""
        values: dict[str, Tensor] = {}
        token = self._watched.set((names, values))
        try:
            return self._model(x), values
        finally:
            self._watched.reset(token)

    def _keep(self, name: str, _module: nn.Module, _inputs: object, output: object) -> object:
        names, values = self._watched.get() or (frozenset[str](), {})
        if name not in names or not isinstance(output, Tensor):
            return None
        if not torch.is_grad_enabled():
            values[name] = output.clone()  # safe from an in-place step behind it
            return None
        # With a graph behind it, it comes after another watched one, or the input has a gradient.
        kept = output if output.requires_grad else output.detach().requires_grad_()
        values[name] = kept
        return kept.clone()


class _Watched(nn.Module):
    """[N, 3, H, W] → the logits, and the values of the layers."""

    def __init__(self, hooks: _Hooks, layers: Sequence[str]) -> None:
        super().__init__()
        self._hooks = hooks
        self._layers = layers

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        logits, values = self._hooks.run(x.detach(), set(self._layers))
        return (logits, *map(values.__getitem__, self._layers))


class _Detach(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x.detach()
