"""Who is next on the device. No torch, no sockets: a queue that any thread may use."""

import time
from collections import deque
from collections.abc import Callable, Generator, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from threading import Condition

from app.engine.sharing import Portion, Sharing
from app.errors import CamserveError, DeadlineExceeded
from app.types import Job, JobResult, Progress

Outcome = JobResult | CamserveError
SlowRun = Generator[Progress, None, Outcome]

_SLOW_SHARE = 0.1  # of the device's time, at least, where fast work waits, too
_MAX_CREDIT_S = 1.0


@dataclass(eq=False, slots=True)
class Entry:
    """A job in the queue. ``owner`` and ``job_id`` name it; ``settle`` is called exactly once.

    A slow job has ``steps`` once it has begun, and ``tell`` is called after each. ``tell_alone`` is
    called when it has the device to itself, and when it no longer has.
    """

    job: Job
    owner: object
    job_id: int
    settle: Callable[[Outcome], None]
    tell: Callable[[Progress], None] = lambda _progress: None
    tell_alone: Callable[[bool], None] = lambda _alone: None
    arrived: float = field(default_factory=time.monotonic)
    begun: float | None = None
    steps: SlowRun | None = None
    cancelled: bool = False

    @property
    def key(self) -> tuple[object, ...]:
        """Rows of the same key can share a trunk pass."""
        job = self.job
        return job.model, job.version, job.layers, job.needs


@dataclass(eq=False, slots=True)
class Batch:
    """Fast rows that run together, or one slow job that takes a step.

    ``cores``: that it may use; ``driver``: whose it is; ``contested``: fast and slow work waited;
    ``seconds``: what it has taken of the device.
    """

    entries: list[Entry]
    cores: int
    driver: object
    contested: bool
    seconds: float = 0.0


class BatchQueue:
    """Work-conserving: an idle device takes what waits.

    Two kinds: batches of fast rows go first, but slow work, a step of a job at a time, keeps a
    tenth of the time of those who take from the queue. Fast batches are of the models in turn: a
    flood of rows for one of them holds the others up no longer than a batch.

    Args:
        sharing: what each of several batches in progress gets.
        max_wait_s: how long the oldest row waits for company; 0 is best where a device is never
            starved, and a lone request then never waits.
    """

    def __init__(self, sharing: Sharing, max_wait_s: float = 0.0) -> None:
        self._sharing = sharing
        self._max_wait_s = max_wait_s
        self._fast: deque[Entry] = deque()
        self._slow: deque[Entry] = deque()
        self._batches: list[Batch] = []  # in progress
        self._counted_s = 0.0  # of the device's clock, up to which batches have their part
        self._drivers: list[object] = []  # in the order they came
        self._turns: dict[str, int] = {}  # when each model last had a fast batch
        self._turn = 0
        self._credit_s = 0.0  # that slow work has, for the time that fast work took
        self._changed = Condition()
        self._closed = False

    def __len__(self) -> int:
        return len(self._fast) + len(self._slow)

    def put(self, entry: Entry) -> None:
        """Add a job, or a slow one that has taken a step and is not done."""
        with self._change():
            if not entry.cancelled:
                (self._slow if entry.job.slow else self._fast).append(entry)

    def cancel(self, owner: object, job_id: int | None = None) -> None:
        """Forget a job that nobody waits for any more, or all jobs of an owner."""
        with self._change():
            for entry in (*self._fast, *self._slow, *self._running()):
                if entry.owner is owner and job_id in {None, entry.job_id}:
                    entry.cancelled = True
            self._fast = deque(entry for entry in self._fast if not entry.cancelled)
            self._slow = deque(entry for entry in self._slow if not entry.cancelled)

    def wait_until_free(self, model: str, version: str) -> None:
        """Wait until no job of this version waits or runs, or the queue is closed."""
        with self._changed:
            self._changed.wait_for(lambda: self._closed or not self._holds(model, version))

    def close(self) -> None:
        """Let ``batches`` end."""
        with self._change():
            self._closed = True

    def running(self) -> list[Entry]:
        """What the device has now."""
        with self._changed:
            return self._running()

    def batches(self) -> Iterator[Batch]:
        """What to run next, one after the other, until the queue is closed.

        Expired rows are settled here. Each driver has an iterator of its own, and is done with a
        batch when it asks for the next: a row that must be alone on the device waits for all that
        runs there, and all others wait for it. Of idle drivers the first one goes on: its threads
        are warm, and the others need none for as long as one is enough.
        """
        driver = object()
        with self._change():
            self._drivers.append(driver)
        try:
            while batch := self._next(driver):
                yield batch
                self._end(batch)
        finally:
            with self._change():
                self._drivers.remove(driver)

    @contextmanager
    def _change(self) -> Iterator[None]:
        with self._changed:
            yield
            self._changed.notify_all()

    def _running(self) -> list[Entry]:
        # Two drivers may be at a slow job at once: one has just put it back.
        return [entry for batch in self._batches for entry in batch.entries]

    def _holds(self, model: str, version: str) -> bool:
        entries = (*self._fast, *self._slow, *self._running())
        return any((e.job.model, e.job.version) == (model, version) for e in entries)

    def _next(self, driver: object) -> Batch | None:
        """A batch that is in progress from now on; None: the queue is closed."""
        while True:
            with self._changed:
                portion = self._wait_for_portion(driver)
                if not portion:
                    return None
                batch, expired = self._begin(portion, driver)
            for entry in expired:
                entry.settle(DeadlineExceeded("The deadline passed while the picture waited."))
            if batch.entries:
                return batch

    def _wait_for_portion(self, driver: object) -> Portion | None:
        while not self._closed:
            portion = self._portion()
            if portion and driver is self._first_idle():
                return portion
            self._changed.wait(self._until_ripe())
        return None

    def _first_idle(self) -> object:
        busy = {id(batch.driver) for batch in self._batches}
        return next(driver for driver in self._drivers if id(driver) not in busy)

    def _portion(self) -> Portion | None:
        if not self._fast and not self._slow:
            return None
        first, running = self._first(), self._running()
        if running and (first.job.alone or any(entry.job.alone for entry in running)):
            return None
        waited_s = time.monotonic() - first.arrived
        if self._wants_company(first.job) and waited_s < self._max_wait_s:
            return None
        return self._sharing.portion(
            model=None if first.job.slow else first.job.model,
            waiting=1 if first.job.alone else len(self),
            waited_s=waited_s,
            running=[batch.cores for batch in self._batches],
        )

    def _wants_company(self, job: Job) -> bool:
        return not job.slow and not job.alone and len(self._fast) < self._sharing.max_rows

    def _until_ripe(self) -> float | None:
        """Seconds until time alone gives the next row a portion; None: that will not help."""
        if not self._fast:
            return None
        waited_s = time.monotonic() - self._first_fast().arrived
        left = [s - waited_s for s in (self._max_wait_s, self._sharing.patience_s) if s > waited_s]
        return min(left, default=None)

    def _first(self) -> Entry:
        if self._slow and (not self._fast or self._credit_s > 0):
            return self._slow[0]
        return self._first_fast()

    def _first_fast(self) -> Entry:
        """The oldest row of the model whose turn it is."""
        return min(self._fast, key=lambda entry: self._turns.get(entry.job.model, 0))

    def _begin(self, portion: Portion, driver: object) -> tuple[Batch, list[Entry]]:
        """A batch, in progress unless it is empty, and the rows that came too late for it."""
        contested = bool(self._fast and self._slow)
        slow = self._first().job.slow
        taken = [self._slow.popleft()] if slow else self._take(portion.rows)
        now = time.monotonic()
        live = [entry for entry in taken if entry.job.deadline > now]
        batch = Batch(live, portion.cores, driver, contested)
        if live:
            self._count()
            self._batches.append(batch)
            self._changed.notify_all()  # now another driver is the first of the idle ones
        return batch, [entry for entry in taken if entry not in live]

    def _end(self, batch: Batch) -> None:
        job = batch.entries[0].job
        with self._change():
            self._count()
            self._batches.remove(batch)
            if batch.contested:
                self._account(batch.seconds, slow=job.slow)
            if not job.slow:
                more = bool(self._batches or len(self))
                self._sharing.learn(job.model, len(batch.entries), batch.seconds, more=more)

    def _count(self) -> None:
        """Give each batch in progress its part of what they took since the last one began or ended.

        By the cores that it may use: who computes for whom, in threads of several libraries, the
        system does not tell.
        """
        now = self._sharing.clock()
        spent, self._counted_s = now - self._counted_s, now
        cores = sum(batch.cores for batch in self._batches)
        for batch in self._batches:
            batch.seconds += spent * batch.cores / cores

    def _account(self, seconds: float, *, slow: bool) -> None:
        earned = -seconds if slow else seconds * _SLOW_SHARE / (1 - _SLOW_SHARE)
        self._credit_s = min(self._credit_s + earned, _MAX_CREDIT_S)

    def _take(self, rows: int) -> list[Entry]:
        """The first fast row, and those behind it that can go with it."""
        first = self._first_fast()
        self._turn += 1
        self._turns[first.job.model] = self._turn
        batch, rest = [first], deque[Entry]()
        for entry in (entry for entry in self._fast if entry is not first):
            fits = len(batch) < rows and entry.key == first.key
            together = not first.job.alone and not entry.job.alone
            (batch if fits and together else rest).append(entry)
        self._fast = rest
        return batch
