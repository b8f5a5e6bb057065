"""The worker process: takes jobs from http processes, runs them in batches, settles every one.

Threads: one reads what the http processes send, one loads models, some drive the device; the main
thread waits for the parent's pipe to close, and ends the process then.
"""

import logging
import socket
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from threading import Lock, Thread

from app.engine.batching import BatchQueue, Entry, Outcome, SlowRun
from app.engine.connections import Connection, Connections
from app.engine.wire import (
    Frame,
    Message,
    pack,
    pack_alone,
    pack_error,
    pack_progress,
    pack_result,
    unpack_job,
)
from app.errors import CamserveError
from app.metrics import Metrics
from app.types import Catalogue, Job, JobResult, Progress

log = logging.getLogger(__name__)

Run = Callable[[Sequence[Job]], list[Outcome]]
RunSlowly = Callable[[Job], SlowRun]


def execute(run: Run, jobs: Sequence[Job]) -> list[Outcome]:
    """Run a batch; if it fails, row by row once, so that a poison row fails alone.

    Args:
        run: runs jobs that can share a batch; an outcome for each, in order.
        jobs: at least one.

    Returns:
        An outcome for each job, whatever happens.
    """
    try:
        outcomes = run(jobs)
    except CamserveError as exc:
        return [exc] * len(jobs)
    except Exception:
        if len(jobs) > 1:
            log.exception("a batch of %d failed; its rows are tried one by one", len(jobs))
            return [execute(run, [job])[0] for job in jobs]
        log.exception("a row failed")
        return [CamserveError("The model failed on this picture; the log says why.")]
    if len(outcomes) != len(jobs):
        return [CamserveError("The model answered with another number of rows.")] * len(jobs)
    return outcomes


def advance(run_slowly: RunSlowly, entry: Entry) -> Outcome | Progress:
    """Let a slow job take a step; its outcome, once it is done."""
    try:
        entry.steps = entry.steps or run_slowly(entry.job)
        return next(entry.steps)
    except StopIteration as end:
        outcome: Outcome = end.value
        return outcome
    except CamserveError as exc:
        return exc
    except Exception:
        log.exception("a slow job failed")
        return CamserveError("The model failed on this picture; the log says why.")


class Worker:
    """The process without its model: connections, queue and device loop.

    Args:
        run: runs a batch of jobs on the device.
        run_slowly: runs a job of many passes there, step by step.
        catalogue: what is served now.
        queue: where jobs wait.
        metrics: where batches are counted.
        drivers: threads that run batches, so many at once.
        use_cores: tells torch how many cores a driver's next batch may use.
    """

    def __init__(
        self,
        run: Run,
        run_slowly: RunSlowly,
        catalogue: Callable[[], Catalogue],
        queue: BatchQueue,
        metrics: Metrics,
        drivers: int = 1,
        use_cores: Callable[[int], None] = lambda _cores: None,
    ) -> None:
        self._run = run
        self._run_slowly = run_slowly
        self._catalogue = catalogue
        self._queue = queue
        self._metrics = metrics
        self._drivers = drivers
        self._use_cores = use_cores
        self._busy_since: dict[int, float] = {}  # of the drivers at work
        self._connections = Connections(self._hello, self._take, queue.cancel)
        self._alone: Entry | None = None  # that its connection was told of
        self._beginning = Lock()

    def start(self, listener: socket.socket) -> None:
        """Accept connections and run batches, in threads of their own."""
        self._connections.start(listener)
        for driver in range(self._drivers):
            Thread(target=self._drive, args=(driver,), daemon=True).start()

    def is_stuck(self, seconds: float) -> bool:
        """Whether the device has been at one batch for longer than that, or nothing is read."""
        if not self._connections.are_read():
            return True
        since = min(self._busy_since.copy().values(), default=None)
        return since is not None and time.monotonic() - since > seconds

    def announce(self) -> None:
        """Tell every http process what is served now."""
        self._connections.greet()

    def _hello(self) -> list[Frame]:
        return pack({"kind": "catalogue"}, [self._catalogue().model_dump_json().encode()])

    def _take(self, connection: Connection, message: Message) -> None:
        header, frames = message
        if header["kind"] == "cancel":
            self._queue.cancel(connection, header["id"])
        else:
            self._queue.put(_entry(connection, header["id"], unpack_job(header, frames)))

    def _drive(self, driver: int) -> None:
        for batch in self._queue.batches():
            now = self._busy_since[driver] = time.monotonic()
            self._tell_who_is_alone()
            for entry in batch.entries:
                entry.begun = entry.begun or now
            self._use_cores(batch.cores)
            if batch.entries[0].job.slow:
                self._step(batch.entries[0])
            else:
                self._batch(batch.entries)
            del self._busy_since[driver]

    def _tell_who_is_alone(self) -> None:
        """If the process dies now, its clients know whether one picture had all of the device."""
        with self._beginning:  # the latest word must be the one with all drivers in it
            running = self._queue.running()
            before, alone = self._alone, running[0] if len(running) == 1 else None
            if alone is before:
                return
            if before and (before in running or before.job.slow):  # else it is settled
                before.tell_alone(False)
            if alone:
                alone.tell_alone(True)
            self._alone = alone

    def _batch(self, batch: Sequence[Entry]) -> None:
        self._metrics.add(("batch_rows", len(batch), {"model": batch[0].job.model}))
        outcomes = execute(self._run, [entry.job for entry in batch])
        for entry, outcome in zip(batch, outcomes, strict=True):
            entry.settle(_with_queue_time(outcome, entry))

    def _step(self, entry: Entry) -> None:
        result = advance(self._run_slowly, entry)
        if isinstance(result, Progress):
            entry.tell(result)
            self._queue.put(entry)
        else:
            entry.settle(_with_queue_time(result, entry))


def _with_queue_time(outcome: Outcome, entry: Entry) -> Outcome:
    if isinstance(outcome, JobResult):
        queued = ((entry.begun or entry.arrived) - entry.arrived) * 1e3
        return replace(outcome, timings={"queue": queued, **outcome.timings})
    return outcome


def _entry(connection: Connection, job_id: int, job: Job) -> Entry:
    def settle(outcome: Outcome) -> None:
        if isinstance(outcome, JobResult):
            connection.send(pack_result(job_id, outcome))
        else:
            connection.send(pack_error(job_id, outcome))

    def tell(progress: Progress) -> None:
        connection.send(pack_progress(job_id, progress))

    def tell_alone(alone: bool) -> None:
        connection.send(pack_alone(job_id if alone else None))

    return Entry(job, connection, job_id, settle, tell, tell_alone)
