"""How the batches in progress at once share a device. No torch, no threads: numbers."""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import ceil
from typing import Protocol

_GPU_DRIVERS = 3  # one batch computes; the next one's pictures come, and the last one's maps go
_MAX_CPU_DRIVERS = 4  # each keeps threads of its own for all cores
_WORTH_S = 0.02  # of a core's time: less than that waits for company while something else runs
_PATIENCE_S = 0.05  # but no longer than this
_ENOUGH_S = 0.04  # of each of its cores: a batch of more rows is no cheaper, and they wait longer
_FEW = 2  # rows for a core, where each could have as many: more are no cheaper, and wait longer
_UNKNOWN_S = 1.0  # of a core, for a row of a model that has not run yet: heavy
_CROWDED = 0.5  # of the last batches: others ran or waited at their end
_LATELY = 0.2  # weight of the last batch in what is known of them


@dataclass(frozen=True, slots=True)
class Portion:
    """At most so many rows for the next batch, and the cores it may use."""

    rows: int
    cores: int


class Sharing(Protocol):
    """What a queue asks for each of its drivers, the threads that run its batches.

    Attributes:
        drivers: batches that are worth having in progress at once.
        max_rows: in a batch.
        patience_s: the longest that ``portion`` lets a row wait for company while something runs.
        clock: tells what all batches together have taken of the device until now, in seconds of it
            or of its cores. On a processor a model that is being loaded counts, too; batches forget
            that in a while.
    """

    drivers: int
    max_rows: int
    patience_s: float
    clock: Callable[[], float]

    def portion(
        self, model: str | None, waiting: int, waited_s: float, running: Sequence[int]
    ) -> Portion | None:
        """What the next batch gets.

        Args:
            model: of the row that is next; None: a slow job's step.
            waiting: rows and slow jobs in all, at least 1.
            waited_s: how long that row has.
            running: the cores of each batch in progress.

        Returns:
            None: nothing for now.
        """

    def learn(self, model: str, rows: int, seconds: float, *, more: bool) -> None:
        """Note what a batch of fast rows took.

        Args:
            model: of its rows.
            rows: how many.
            seconds: by the clock.
            more: whether others ran or waited at its end.
        """


class WholeDevice:
    """A GPU: each batch has all of it, and the more rows the better."""

    patience_s = 0.0
    clock = staticmethod(time.monotonic)

    def __init__(self, max_rows: int, drivers: int = _GPU_DRIVERS) -> None:
        self.max_rows = max_rows
        self.drivers = drivers

    def portion(
        self, model: str | None, waiting: int, waited_s: float, running: Sequence[int]
    ) -> Portion | None:
        """All that waits; there are no more drivers than batches that may run."""
        del model, waited_s, running
        return Portion(min(waiting, self.max_rows), 1)

    def learn(self, model: str, rows: int, seconds: float, *, more: bool) -> None:
        """Nothing depends on it."""


class SharedCores:
    """A processor: rows that wait are dealt out to its cores, and a row alone has all of them.

    A row that is seldom alone has but its share, for others will come meanwhile.

    Cores that compute one batch together wait for one another behind each layer, and for the one
    that an http process borrows in the meantime; light layers are done before it was worth waking
    anybody. So each batch gets few cores, but those only if there is enough to do. The lighter the
    rows, the cheaper they are together, and the more of the cores do http processes need, which
    decode and draw: those rows wait for more company, for a full batch at most. Nothing is gained
    beyond a few tens of milliseconds, and who waits for an answer would wait for the whole batch.

    Args:
        max_rows: in all batches together.
        cores: that there are.
    """

    patience_s = _PATIENCE_S
    clock = staticmethod(time.process_time)  # what else runs on the cores is not the batches'

    def __init__(self, max_rows: int, cores: int) -> None:
        self.drivers = min(cores, max_rows, _MAX_CPU_DRIVERS)
        self.max_rows = max_rows // self.drivers
        self._cores = cores
        self._row_s: dict[str, float] = {}  # what a model's row costs, in core-seconds
        self._crowd = 0.0  # the part of the last batches at whose end there was more to do

    def portion(
        self, model: str | None, waiting: int, waited_s: float, running: Sequence[int]
    ) -> Portion | None:
        """A fair part for a driver, if it is worth a core."""
        free = self._cores - sum(running)
        idle = self.drivers - len(running)
        if not free or not idle:
            return None
        row_s = self._row_s.get(model or "", _UNKNOWN_S)
        least = 1 if waited_s >= _PATIENCE_S or not running else 0
        parts = min(max(least, self._parts(waiting, row_s)), waiting, idle, free)
        if not parts:
            return None
        cores = min(ceil(max(parts, waiting * row_s / _WORTH_S)), free) // parts
        if model is not None and self._crowd > _CROWDED:
            cores = min(cores, self._cores // self.drivers)  # others will come meanwhile
        few = min(_FEW, max(1, waiting // self._cores))
        enough = cores * max(few, ceil(_ENOUGH_S / row_s))
        return Portion(min(ceil(waiting / parts), self.max_rows, enough), cores)

    def _parts(self, waiting: int, row_s: float) -> int:
        """Batches that so many rows are worth beside others: full ones always."""
        weight = row_s / _WORTH_S
        return int(waiting * max(weight * min(1.0, weight), 1 / self.max_rows))

    def learn(self, model: str, rows: int, seconds: float, *, more: bool) -> None:
        """The next rows of this model will cost about as much, and have as much company."""
        self._crowd += _LATELY * (more - self._crowd)
        row_s = seconds / rows
        self._row_s[model] = (1 - _LATELY) * self._row_s.get(model, row_s) + _LATELY * row_s
