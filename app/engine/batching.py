"""Who is in the next batch. No torch, no sockets: a queue that any thread may use."""

import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from threading import Condition

from app.errors import CamserveError, DeadlineExceeded
from app.types import Job, JobResult

Outcome = JobResult | CamserveError


@dataclass(eq=False, slots=True)
class Entry:
    """A job in the queue. ``owner`` and ``job_id`` name it; ``settle`` is called exactly once."""

    job: Job
    owner: object
    job_id: int
    settle: Callable[[Outcome], None]
    arrived: float = field(default_factory=time.monotonic)

    @property
    def key(self) -> tuple[object, ...]:
        """Rows of the same key can share a trunk pass."""
        job = self.job
        return job.model, job.version, job.layers, job.needs


class BatchQueue:
    """Work-conserving: an idle device takes what waits.

    Args:
        max_batch_size: rows in a batch.
        max_wait_s: how long the oldest row waits for company; 0 is best where a device is never
            starved, and a lone request then never waits.
    """

    def __init__(self, max_batch_size: int, max_wait_s: float = 0.0) -> None:
        self._max_batch_size = max_batch_size
        self._max_wait_s = max_wait_s
        self._waiting: deque[Entry] = deque()
        self._changed = Condition()
        self._closed = False

    def __len__(self) -> int:
        return len(self._waiting)

    def put(self, entry: Entry) -> None:
        with self._change():
            self._waiting.append(entry)

    def cancel(self, owner: object, job_id: int | None = None) -> None:
        """Forget a job that nobody waits for any more, or all jobs of an owner."""
        with self._change():
            self._waiting = deque(
                entry
                for entry in self._waiting
                if entry.owner is not owner or job_id not in {None, entry.job_id}
            )

    def close(self) -> None:
        """Let ``batches`` end."""
        with self._change():
            self._closed = True

    def batches(self) -> Iterator[list[Entry]]:
        """Batches, as they can be had, until the queue is closed. Expired rows are settled here."""
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._waiting or self._closed)
                if self._closed:
                    return
                self._wait_for_company()
                batch = self._take()
                expired = [entry for entry in batch if entry.job.deadline <= time.monotonic()]
            for entry in expired:
                entry.settle(DeadlineExceeded("The deadline passed while the picture waited."))
            if live := [entry for entry in batch if entry not in expired]:
                yield live

    @contextmanager
    def _change(self) -> Iterator[None]:
        with self._changed:
            yield
            self._changed.notify()

    def _wait_for_company(self) -> None:
        def full() -> bool:
            return self._closed or len(self._waiting) >= self._max_batch_size

        if self._max_wait_s and self._waiting and not self._waiting[0].job.alone:
            left = self._waiting[0].arrived + self._max_wait_s - time.monotonic()
            self._changed.wait_for(full, timeout=max(0.0, left))

    def _take(self) -> list[Entry]:
        """The oldest row, and those behind it that can go with it."""
        if not self._waiting:  # cancelled while it waited for company
            return []
        first = self._waiting[0]
        batch, rest = [first], deque[Entry]()
        for entry in list(self._waiting)[1:]:
            fits = len(batch) < self._max_batch_size and entry.key == first.key
            together = not first.job.alone and not entry.job.alone
            (batch if fits and together else rest).append(entry)
        self._waiting = rest
        return batch
