"""The worker process: takes jobs from http processes, runs them in batches, settles every one.

Threads: one reads each connection, one loads models, some drive the device; the main thread waits
for the parent's pipe to close, and ends the process then.
"""

import logging
import socket
import struct
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import replace
from threading import Lock, Thread
from typing import IO

from app.engine.batching import BatchQueue, Entry, Outcome, SlowRun
from app.engine.wire import (
    Frame,
    pack,
    pack_error,
    pack_progress,
    pack_result,
    receive_blocking,
    unpack_job,
)
from app.errors import CamserveError
from app.metrics import Metrics
from app.types import Catalogue, Job, JobResult, Progress

log = logging.getLogger(__name__)

Run = Callable[[Sequence[Job]], list[Outcome]]
RunSlowly = Callable[[Job], SlowRun]

_SEND_TIMEOUT = (
    5,
    0,
)  # seconds, microseconds: an http process that reads nothing for so long is as good as dead


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
        self._connections: set[_Connection] = set()
        self._lock = Lock()
        self._beginning = Lock()

    def start(self, listener: socket.socket) -> None:
        """Accept connections and run batches, in threads of their own."""
        Thread(target=self._accept, args=(listener,), daemon=True).start()
        for driver in range(self._drivers):
            Thread(target=self._drive, args=(driver,), daemon=True).start()

    def is_stuck(self, seconds: float) -> bool:
        """Whether the device has been at one batch for longer than that."""
        since = min(self._busy_since.copy().values(), default=None)
        return since is not None and time.monotonic() - since > seconds

    def announce(self) -> None:
        """Tell every http process what is served now."""
        with self._lock:  # one catalogue after the other: an older one must not come last
            for connection in self._connections:
                connection.send(self._hello())

    def _hello(self) -> list[Frame]:
        return pack({"kind": "catalogue"}, [self._catalogue().model_dump_json().encode()])

    def _accept(self, listener: socket.socket) -> None:
        while True:
            accepted, _ = listener.accept()
            connection = _Connection(accepted)
            with self._lock:
                self._connections.add(connection)
                connection.send(self._hello())
            Thread(target=self._read, args=(connection,), daemon=True).start()

    def _read(self, connection: "_Connection") -> None:
        try:
            while True:
                header, frames = receive_blocking(connection.file)
                if header["kind"] == "cancel":
                    self._queue.cancel(connection, header["id"])
                else:
                    self._queue.put(_entry(connection, header["id"], unpack_job(header, frames)))
        except (EOFError, OSError):
            log.info("an http process hung up")
        finally:
            with self._lock:
                self._connections.discard(connection)
            self._queue.cancel(connection)
            connection.close()

    def _drive(self, driver: int) -> None:
        for batch in self._queue.batches():
            now = self._busy_since[driver] = time.monotonic()
            self._announce_begin()
            for entry in batch.entries:
                entry.begun = entry.begun or now
            self._use_cores(batch.cores)
            if batch.entries[0].job.slow:
                self._step(batch.entries[0])
            else:
                self._batch(batch.entries)
            del self._busy_since[driver]

    def _announce_begin(self) -> None:
        """If the process dies now, its clients know which rows the device had."""
        with self._beginning:  # the latest word must be the one with all drivers in it
            running = self._queue.running()
            for connection in {e.owner for e in running if isinstance(e.owner, _Connection)}:
                ids = [entry.job_id for entry in running if entry.owner is connection]
                connection.send(pack({"kind": "begin", "ids": ids, "rows": len(running)}))

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


def _entry(connection: "_Connection", job_id: int, job: Job) -> Entry:
    def settle(outcome: Outcome) -> None:
        if isinstance(outcome, JobResult):
            connection.send(pack_result(job_id, outcome))
        else:
            connection.send(pack_error(job_id, outcome))

    def tell(progress: Progress) -> None:
        connection.send(pack_progress(job_id, progress))

    return Entry(job=job, owner=connection, job_id=job_id, settle=settle, tell=tell)


class _Connection:
    def __init__(self, accepted: socket.socket) -> None:
        accepted.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4 * 2**20)
        accepted.setsockopt(
            socket.SOL_SOCKET, socket.SO_SNDTIMEO, struct.pack("ll", *_SEND_TIMEOUT)
        )
        self.file: IO[bytes] = accepted.makefile("rb")
        self._socket = accepted
        self._lock = Lock()

    def send(self, frames: list[Frame]) -> None:
        """Write a message; where nobody reads any more, the reading thread is told to give up."""
        with self._lock, suppress(OSError):
            try:
                self._socket.sendall(b"".join(frames))
            except OSError:
                self._socket.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        self.file.close()
        self._socket.close()
