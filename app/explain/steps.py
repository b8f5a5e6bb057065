"""Methods of many passes.

A slow method is a generator, ``explain``: it asks for passes, a bounded batch at a time, is sent
their numbers, and returns its maps. Between two passes other work may go first. It is sent None
once its time is over: it then returns the best it has, or raises ``Unfinished``. ``passes`` says
how many rows it would pass through the model, were there no budget.
"""

from collections.abc import Callable, Generator, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from torch import Tensor


@dataclass(frozen=True, kw_only=True)
class Row:
    """One picture, as a slow method sees it.

    ``pixels`` [H, W, 3], ``x`` [1, 3, H, W] normalised, ``activations`` [1, C, h, w] at the cut,
    ``logits`` [classes]; ``scores`` makes the model's scores of such rows. ``linear`` is the weight
    of the head, [classes, C], where that is global average pooling and one linear layer. ``ablate``
    gives the head's input with one channel at zero in each row, where the cut is clean. A pass has
    at most ``slice`` rows, all together ``budget``.
    """

    pixels: NDArray[np.uint8]
    x: Tensor
    activations: Tensor
    logits: Tensor
    scores: Callable[[Tensor], Tensor]
    linear: Tensor | None
    ablate: Callable[[Sequence[int]], Tensor] | None
    class_idx: Sequence[int]
    seed: int
    budget: int
    slice: int

    def parts(self, rows: Tensor) -> Iterator[Tensor]:
        """Rows in parts, each of a pass at most."""
        for start in range(0, len(rows), self.slice):
            yield rows[start : start + self.slice]


@dataclass(frozen=True)
class Forward:
    """Logits, [m, classes], of inputs, [m, 3, H, W]."""

    rows: Tensor


@dataclass(frozen=True)
class Head:
    """Logits, [m, classes], of what ``Row.ablate`` gives."""

    rows: Tensor


@dataclass(frozen=True)
class Gradient:
    """The gradient, [m, 3, H, W], of a class's logit for each of the inputs, [m, 3, H, W]."""

    rows: Tensor
    class_idx: Sequence[int]


@dataclass(frozen=True)
class Found:
    """Maps, [K, h, w], one for each class.

    ``residuals``, where the method is complete in theory: for each class, by how much its map's sum
    misses the difference of the logits.
    """

    maps: Tensor
    residuals: Sequence[float] = ()


Pass = Forward | Head | Gradient
Steps = Generator[Pass, Tensor | None, Found]


class Unsuited(Exception):
    """A method cannot explain at this layer; the message says why."""


class Unfinished(Exception):
    """A method was stopped where it has nothing to show yet."""
