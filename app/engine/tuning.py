"""Which batch size and precision suit a model on this machine? A full machine tells."""

import math
import statistics
import time
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch

from app.backbones.model import Model
from app.engine.batching import BatchQueue, Entry
from app.engine.device import Device
from app.engine.fast import run
from app.types import Job, Precision

SIZES = (1, 2, 4, 8, 16, 32, 64)
ENOUGH = 0.97  # of the best rate: beyond, a larger batch only makes its first row wait
_TURNS = 3  # for each size


@dataclass(frozen=True, slots=True)
class Measured:
    """Scores and Grad-CAM where more rows always wait, with ``rows`` as ``APP_MAX_BATCH_SIZE``.

    ``milliseconds``: the median time of a batch, which may have fewer rows; ``rate``: rows a
    second.
    """

    precision: Precision
    rows: int
    milliseconds: float
    rate: float


@dataclass(frozen=True, slots=True)
class _Turn:
    """What one driver did: its rows, the seconds it was at it, and those of each batch."""

    rows: int
    seconds: float
    batches: Sequence[float]


def measure(model: Model, sizes: Sequence[int] = SIZES, seconds: float = 10) -> list[Measured]:
    """Run batches as a worker does, of each size in turn: a disturbance hits all of them alike.

    Args:
        model: a ready one.
        sizes: rows, in ascending order.
        seconds: to measure for; a batch that has begun is not broken off.
    """
    full = partial(_full, model, Device(model.device), _job(model))
    turns: dict[int, list[list[_Turn]]] = {}
    try:
        for rows in sizes:
            full(rows, 0)  # chooses kernels
            turns[rows] = []
    except torch.OutOfMemoryError:  # larger ones are not for this GPU
        if not turns:
            raise
    for _ in range(_TURNS):
        for rows, found in turns.items():
            found.append(full(rows, seconds / _TURNS / len(turns)))
    return [_measured(model.precision, rows, found) for rows, found in turns.items()]


def advise(found: Iterable[Measured], latency_ms: float | None = None) -> Measured | None:
    """The smallest batch that is almost as fast as any, of those that take no longer than that."""
    able = [m for m in found if latency_ms is None or m.milliseconds <= latency_ms]
    best = max((m.rate for m in able), default=0)
    return min((m for m in able if m.rate >= ENOUGH * best), key=lambda m: m.rows, default=None)


def _measured(precision: Precision, rows: int, turns: Sequence[Sequence[_Turn]]) -> Measured:
    rates = [sum(driver.rows / driver.seconds for driver in turn) for turn in turns]
    batches = [seconds for turn in turns for driver in turn for seconds in driver.batches]
    milliseconds = statistics.median(batches) * 1e3
    return Measured(precision, rows, milliseconds, statistics.median(rates))


def _full(model: Model, device: Device, job: Job, rows: int, seconds: float) -> list[_Turn]:
    """All drivers of a device at once, for a time; what those did that had anything to do."""
    sharing = device.sharing(rows)
    queue = BatchQueue(sharing)
    for _ in range((sharing.drivers + 1) * rows):
        queue.put(_entry(job))
    drive = partial(_drive, model, device, queue, until=time.perf_counter() + seconds)
    with ThreadPoolExecutor(sharing.drivers) as pool:
        drivers = [pool.submit(drive) for _ in range(sharing.drivers)]
    return [turn for driver in drivers if (turn := driver.result()).batches]


def _drive(model: Model, device: Device, queue: BatchQueue, until: float) -> _Turn:
    """Run batches; for each row that is done another one comes."""
    rows, batches = 0, []
    began = ended = time.perf_counter()
    with closing(queue):  # so that the others end, too
        for batch in queue.batches():
            device.use_cores(batch.cores)
            started = time.perf_counter()
            with device.turn():
                run(model, [entry.job for entry in batch.entries])
            ended = time.perf_counter()
            batches.append(ended - started)
            rows += len(batch.entries)
            for entry in batch.entries:
                queue.put(_entry(entry.job))
            if ended >= until:
                break
    return _Turn(rows, max(ended, until) - began, batches)


def _job(model: Model) -> Job:
    pixels = np.random.default_rng(0).integers(0, 256, (*model.preprocess.crop, 3), np.uint8)
    return Job(
        model="", version="", pixels=pixels, deadline=math.inf,
        classes=("top1",), methods=("gradcam",),
    )  # fmt: skip


def _entry(job: Job) -> Entry:
    return Entry(job=job, owner=None, job_id=0, settle=lambda _outcome: None)
