"""Which batch size and precision suit a model on this machine? A batch by all cores tells."""

import statistics
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from app.backbones.model import Model
from app.engine.fast import run
from app.types import Job, Precision

SIZES = (1, 2, 4, 8, 16, 32)
_LEAST = 3  # times for each size
ENOUGH = 0.97  # of the best rate: beyond, a larger batch only makes its first row wait


@dataclass(frozen=True, slots=True)
class Measured:
    """Scores and Grad-CAM of a batch: its median time, in milliseconds, and the rows a second."""

    precision: Precision
    rows: int
    milliseconds: float

    @property
    def rate(self) -> float:
        """Rows a second."""
        return self.rows / self.milliseconds * 1e3


def measure(model: Model, sizes: Sequence[int] = SIZES, seconds: float = 10) -> list[Measured]:
    """Time batches of each size in turn, so that a disturbance hits all of them alike.

    Args:
        model: a ready one.
        sizes: rows.
        seconds: to measure for; each size is timed a few times, however long it takes.
    """
    for rows in sizes:
        _seconds(model, rows)  # chooses kernels
    times: dict[int, list[float]] = {rows: [] for rows in sizes}
    until = time.monotonic() + seconds
    while time.monotonic() < until or len(times[sizes[-1]]) < _LEAST:
        for rows in sizes:
            times[rows].append(_seconds(model, rows))
    return [
        Measured(model.precision, rows, statistics.median(found) * 1e3)
        for rows, found in times.items()
    ]


def advise(found: Iterable[Measured], latency_ms: float | None = None) -> Measured | None:
    """The smallest batch that is almost as fast as any, of those that take no longer than that."""
    able = [m for m in found if latency_ms is None or m.milliseconds <= latency_ms]
    best = max((m.rate for m in able), default=0)
    return min((m for m in able if m.rate >= ENOUGH * best), key=lambda m: m.rows, default=None)


def _seconds(model: Model, rows: int) -> float:
    pixels = np.random.default_rng(0).integers(0, 256, (*model.preprocess.crop, 3), np.uint8)
    job = Job(
        model="", version="", pixels=pixels, deadline=0, classes=("top1",), methods=("gradcam",)
    )
    started = time.perf_counter()
    run(model, [job] * rows)
    return time.perf_counter() - started
