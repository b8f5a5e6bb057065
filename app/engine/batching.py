"""Who is next on the device. No torch, no sockets: a queue that any thread may use."""

import time
from collections import deque
from collections.abc import Callable, Generator, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from threading import Condition

from app.errors import CamserveError, DeadlineExceeded
from app.types import Job, JobResult, Progress

Outcome = JobResult | CamserveError
SlowRun = Generator[Progress, None, Outcome]

_SLOW_SHARE = 0.1  # of the device's time, at least, where both lanes wait
_MAX_CREDIT_S = 1.0


@dataclass(eq=False, slots=True)
class Entry:
    """A job in the queue. ``owner`` and ``job_id`` name it; ``settle`` is called exactly once.

    A slow job has ``steps`` once it has begun, and ``tell`` is called after each.
    """

    job: Job
    owner: object
    job_id: int
    settle: Callable[[Outcome], None]
    tell: Callable[[Progress], None] = lambda _progress: None
    arrived: float = field(default_factory=time.monotonic)
    begun: float | None = None
    steps: SlowRun | None = None
    cancelled: bool = False

    @property
    def key(self) -> tuple[object, ...]:
        """Rows of the same key can share a trunk pass."""
        job = self.job
        return job.model, job.version, job.layers, job.needs


class BatchQueue:
    """Work-conserving: an idle device takes what waits.

    Two kinds: batches of fast rows go first, but slow work, a step of a job at a time, keeps a
    tenth of the time of those who take from the queue. Fast batches are of the models in turn: a
    flood of rows for one of them holds the others up no longer than a batch.

    Args:
        max_batch_size: rows in a batch.
        max_wait_s: how long the oldest row waits for company; 0 is best where a device is never
            starved, and a lone request then never waits.
    """

    def __init__(self, max_batch_size: int, max_wait_s: float = 0.0) -> None:
        self._max_batch_size = max_batch_size
        self._max_wait_s = max_wait_s
        self._fast: deque[Entry] = deque()
        self._slow: deque[Entry] = deque()
        self._running: list[Entry] = []
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
            for entry in (*self._fast, *self._slow, *self._running):
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
            return list(self._running)

    def batches(self) -> Iterator[list[Entry]]:
        """Batches of fast rows, and single slow ones to take a step, until the queue is closed.

        Expired rows are settled here. Several threads may take batches: a row that must be alone on
        the device then waits for all that runs there, and all others wait for it.
        """
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._closed or self._may_take())
                if self._closed:
                    return
                both_wait = bool(self._fast and self._slow)
                batch = self._next()
                expired = [entry for entry in batch if entry.job.deadline <= time.monotonic()]
                live = [entry for entry in batch if entry not in expired]
                self._running += live
            for entry in expired:
                entry.settle(DeadlineExceeded("The deadline passed while the picture waited."))
            if live:
                started = time.monotonic()
                yield live
                with self._change():
                    if both_wait:
                        self._account(time.monotonic() - started, slow=live[0].job.slow)
                    for entry in live:  # once: another lane may have a slow job's next step already
                        self._running.remove(entry)

    @contextmanager
    def _change(self) -> Iterator[None]:
        with self._changed:
            yield
            self._changed.notify_all()

    def _holds(self, model: str, version: str) -> bool:
        entries = (*self._fast, *self._slow, *self._running)
        return any((e.job.model, e.job.version) == (model, version) for e in entries)

    def _may_take(self) -> bool:
        if not self._fast and not self._slow:
            return False
        alone = self._first().job.alone or any(entry.job.alone for entry in self._running)
        return not (alone and self._running)

    def _first(self) -> Entry:
        if self._slow and (not self._fast or self._credit_s > 0):
            return self._slow[0]
        return self._first_fast()

    def _first_fast(self) -> Entry:
        """The oldest row of the model whose turn it is."""
        return min(self._fast, key=lambda entry: self._turns.get(entry.job.model, 0))

    def _next(self) -> list[Entry]:
        if self._first().job.slow:
            return [self._slow.popleft()]
        self._wait_for_company()
        return self._take() if self._may_take() else []  # another lane may have begun meanwhile

    def _account(self, seconds: float, *, slow: bool) -> None:
        earned = -seconds if slow else seconds * _SLOW_SHARE / (1 - _SLOW_SHARE)
        self._credit_s = min(self._credit_s + earned, _MAX_CREDIT_S)

    def _wait_for_company(self) -> None:
        def full() -> bool:
            return self._closed or len(self._fast) >= self._max_batch_size

        if self._max_wait_s and self._fast and not self._first_fast().job.alone:
            left = self._fast[0].arrived + self._max_wait_s - time.monotonic()
            self._changed.wait_for(full, timeout=max(0.0, left))

    def _take(self) -> list[Entry]:
        """The first fast row, and those behind it that can go with it."""
        if not self._fast:  # cancelled while it waited for company
            return []
        first = self._first_fast()
        self._turn += 1
        self._turns[first.job.model] = self._turn
        batch, rest = [first], deque[Entry]()
        for entry in (entry for entry in self._fast if entry is not first):
            fits = len(batch) < self._max_batch_size and entry.key == first.key
            together = not first.job.alone and not entry.job.alone
            (batch if fits and together else rest).append(entry)
        self._fast = rest
        return batch
