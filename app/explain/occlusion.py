"""Occlusion (Zeiler and Fergus 2014, https://arxiv.org/abs/1311.2901, section 4.2)."""

import math

from torch import Tensor

from app.explain.steps import Forward, Found, Row, Steps, Unfinished
from app.types import MethodInfo

INFO = MethodInfo(
    name="occlusion",
    title="Occlusion",
    paper="https://arxiv.org/abs/1311.2901",
    cost="169 passes",
)

_POSITIONS = (
    13  # of the window on each side: it is a seventh of the picture, and moves by half of it
)


def passes(_row: Row) -> int:
    """One for each position of the window."""
    return _POSITIONS**2


def explain(row: Row) -> Steps:
    """What the class's logit loses when a window of the mean colour hides a part of the picture.

    A pixel's value is the mean over the windows that hide it. A smaller budget has fewer and larger
    windows, which still cover the picture.

    Returns:
        [K, H, W], signed.
    """
    height, width = row.x.shape[-2:]
    positions = max(2, min(_POSITIONS, math.isqrt(row.budget)))
    windows = [
        (y, x) for y in _places(height, positions) for x in _places(width, positions)
    ]  # slices
    loss = row.x.new_zeros(len(row.class_idx), height, width)
    count = row.x.new_zeros(height, width)
    chosen = list(row.class_idx)
    for start in range(0, len(windows), row.slice):
        part = windows[start : start + row.slice]
        answer = yield Forward(_hidden(row.x, part))
        if answer is None:
            raise Unfinished
        for (y, x), logits in zip(part, answer, strict=True):
            loss[:, y, x] += (row.logits - logits)[chosen, None, None]
            count[y, x] += 1
    return Found(loss / count)


def _places(side: int, positions: int) -> list[slice]:
    window = math.ceil(side / ((positions + 1) / 2))
    starts = (round(i * (side - window) / (positions - 1)) for i in range(positions))
    return [slice(start, start + window) for start in starts]


def _hidden(x: Tensor, windows: list[tuple[slice, slice]]) -> Tensor:
    rows = x.repeat(len(windows), 1, 1, 1)
    for row, (down, across) in zip(rows, windows, strict=True):
        row[:, down, across] = 0
    return rows
