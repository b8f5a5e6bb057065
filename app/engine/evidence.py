"""What the methods need of a batch: values inside the model, and gradients with respect to them.

The names of the properties are those of the methods' parameters; see ``app/explain/registry.py``.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import Any, Generic, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.functional import embedding_bag

from app.backbones.cores import one_core
from app.backbones.model import Model
from app.backbones.parts import Cut
from app.explain.registry import Method

Weights = Sequence[Mapping[int, float]]  # for each row, of its logits; those that are missing: 0

T = TypeVar("T")

_BY_LAYER = ("activations", "gradients")


class once(Generic[T]):  # noqa: N801 - used as ``property`` is
    """A property that is computed when it is first asked for, by the only thread that asks.

    That of Python 3.11 has a lock for all objects of a class: one batch would wait for another's
    pass through the model.
    """

    def __init__(self, compute: Callable[[Any], T]) -> None:
        self._compute = compute
        self.__doc__ = compute.__doc__

    def __get__(self, instance: object, owner: type) -> T:
        value = self._compute(instance)
        vars(instance)[self._compute.__name__] = value  # found there from now on
        return value


@dataclass(frozen=True, eq=False)
class _Graph:
    """Values, and the autograd graph that leads from them to the logits, [N, classes]."""

    logits: Tensor
    values: Sequence[Tensor]

    def gradients(self, weights: Weights) -> Sequence[Tensor]:
        """Those of the weighted logits; a row's weights reach that row alone."""
        dense = np.zeros(self.logits.shape, np.float32)
        for row, weight_by_class in zip(dense, weights, strict=True):
            for index, weight in weight_by_class.items():
                row[index] = weight
        return torch.autograd.grad(
            self.logits, list(self.values), _beside(self.logits, dense), retain_graph=True
        )


@dataclass(frozen=True, eq=False)
class _Neck:
    """The same where the last layer is linear: autograd goes from its input on.

    It would multiply by the whole weight, where a row of it for each picture does.
    """

    features: Tensor  # that the last layer takes, [N, F]
    values: Sequence[Tensor]
    weight: Tensor  # its own, [classes, F]

    def gradients(self, weights: Weights) -> Sequence[Tensor]:
        """As ``_Graph.gradients``."""
        sums = _weighted_rows(self.weight, weights)
        return torch.autograd.grad(self.features, list(self.values), sums, retain_graph=True)


@dataclass(frozen=True, eq=False)
class _LinearHead:
    """The same where but pooling comes before it: no need for autograd."""

    values: Sequence[Tensor]
    weight: Tensor  # [classes, C]

    def gradients(self, weights: Weights) -> Sequence[Tensor]:
        """As ``_Graph.gradients``: the same in every cell."""
        (value,) = self.values
        sums = _weighted_rows(self.weight, weights) / value[0, 0].numel()
        return [sums[:, :, None, None].expand_as(value)]


def _weighted_rows(weight: Tensor, weights: Weights) -> Tensor:
    """The gradient of weighted logits before a linear layer: [classes, F] → [N, F]."""
    classes = [index for row in weights for index in row]
    starts = accumulate((len(row) for row in weights[:-1]), initial=0)
    places = _beside(weight, np.array([*classes, *starts]))
    factors = [factor for row in weights for factor in row.values()]
    sums: Tensor = embedding_bag(
        places[: len(classes)],
        weight,
        places[len(classes) :],
        mode="sum",
        per_sample_weights=_beside(weight, np.array(factors, np.float32)),
    )
    return sums


def _beside(there: Tensor, values: NDArray[Any]) -> Tensor:
    """On the same device; this thread waits for no more than CUDA has to."""
    return torch.from_numpy(values).to(there.device, non_blocking=True)


class Evidence:
    """A batch inside the model: one trunk pass, and whatever else is asked for.

    ``answers`` are logits and scores, [N, 2, classes].

    Args:
        model: of the rows.
        cut: of the rows.
        batch: pictures, as ``Inputs.stack`` gives them.
        differentiable: whether gradients will be asked for.
    """

    def __init__(self, model: Model, cut: Cut, batch: Tensor, *, differentiable: bool) -> None:
        self.cut = cut
        self._model = model
        self._batch = batch
        if differentiable and cut.linear is None:
            _, logits = self._through_head
            self.answers = model.answers(logits)
        else:
            self._activations, self.answers = model.classify(batch, cut)

    @once
    def at_cut(self) -> _Graph | _Neck | _LinearHead:
        """From the cut to the logits."""
        if self.cut.linear is None:
            graph, _ = self._through_head
            return graph
        return _LinearHead([self._activations], self.cut.linear)

    @once
    def _through_head(self) -> tuple[_Graph | _Neck, Tensor]:
        """From the cut on, with autograd as far as it is needed; and the logits."""
        neck = self.cut.neck
        with torch.no_grad():
            activations = self.cut.forward_features(self.inputs).float()
        with torch.enable_grad():
            head = neck.forward if neck else self.cut.forward_head
            last, *targets = head(activations.requires_grad_())
        if neck is None:
            return _Graph(last, targets), last.detach()
        return _Neck(last, targets, neck.last.weight), neck.last(last.detach())

    @once
    def inputs(self) -> Tensor:
        """[N, 3, H, W], normalised."""
        return self._model.inputs.normalize(self._batch)

    @once
    def activations(self) -> list[Tensor]:
        """For each layer [N, C, h, w]."""
        return [
            grid.maps(value.detach())
            for grid, value in zip(self.cut.grids, self.at_cut.values, strict=True)
        ]

    @once
    def attention(self) -> list[Tensor]:
        """For each block [N, heads, T, T]."""
        return [value.detach() for value in self.at_attention.values]

    @once
    def at_input(self) -> _Graph:
        """From the picture to the logits, through all of the model."""
        with torch.enable_grad():
            leaf = self.inputs.clone().requires_grad_()
            return _Graph(self._model.module(leaf), [leaf])

    @once
    def at_guided_input(self) -> _Graph:
        """The same through guided ReLUs."""
        with torch.enable_grad():
            leaf = self.inputs.clone().requires_grad_()
            return _Graph(self._model.guided(leaf), [leaf])

    @once
    def at_attention(self) -> _Graph:
        """From the attention of each block to the logits."""
        with torch.enable_grad():
            return _Graph(*self._model.attend(self.inputs.clone().requires_grad_()))


class Objectives:
    """What is explained of each row, and the gradients of that: each kind computed once.

    Args:
        evidence: the batch.
        weights: of the logits.
    """

    def __init__(self, evidence: Evidence, weights: Weights) -> None:
        self._evidence = evidence
        self._weights = weights

    def maps(self, method: Method) -> Tensor:
        """A method's maps, [N, h, w]; those of several layers are fused."""
        cut = self._evidence.cut
        needed = {name: self._get(name) for name in method.info.needs}
        if not set(_BY_LAYER).intersection(needed):
            return self._laid_out(method.compute(**needed))
        with one_core():
            maps = [
                method.compute(**{n: v[layer] if n in _BY_LAYER else v for n, v in needed.items()})
                for layer in range(len(cut.layers))
            ]
        return method.fuse(maps) if method.fuse and len(maps) > 1 else maps[0]

    @once
    def gradients(self) -> list[Tensor]:
        """For each layer [N, C, h, w]."""
        found = self._evidence.at_cut.gradients(self._weights)
        grids = self._evidence.cut.grids
        return [grid.maps(value.float()) for grid, value in zip(grids, found, strict=True)]

    @once
    def input_gradients(self) -> Tensor:
        """[N, 3, H, W]."""
        return self._evidence.at_input.gradients(self._weights)[0]

    @once
    def guided_gradients(self) -> Tensor:
        """[N, 3, H, W]."""
        return self._evidence.at_guided_input.gradients(self._weights)[0]

    @once
    def attention_gradients(self) -> list[Tensor]:
        """For each block [N, heads, T, T]."""
        return list(self._evidence.at_attention.gradients(self._weights))

    def _get(self, name: str) -> Any:  # noqa: ANN401 - a tensor, or one for each layer or block
        return getattr(self if name.endswith("gradients") else self._evidence, name)

    def _laid_out(self, values: Tensor) -> Tensor:
        """Tokens, [N, T], as a map."""
        is_map = values.ndim == 3  # noqa: PLR2004 - [N, h, w]
        return values if is_map else self._evidence.cut.grid.maps(values.unsqueeze(2))[:, 0]
