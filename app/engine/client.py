"""The http side of the engine: which worker takes a job, and what happens when it dies."""

import asyncio
import itertools
import logging
import math
import time
from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace

from app.engine.wire import Header, pack, pack_job, receive, unpack_error, unpack_result
from app.errors import (
    NoWorker,
    Overloaded,
    PoisonInput,
    WorkerLost,
)
from app.types import Catalogue, Job, JobResult

log = logging.getLogger(__name__)

_MAX_ATTEMPTS = 4
_ALONE_DEATHS = 2  # a row that was alone on the device at two deaths is refused for good


class EngineClient:
    """Any http process can use any worker.

    Args:
        max_queue: jobs in flight above which a request is refused.
        on_change: called with the number of jobs in flight whenever it changes.
    """

    def __init__(
        self, max_queue: int, on_change: Callable[[int], None] = lambda _in_flight: None
    ) -> None:
        self._max_queue = max_queue
        self._on_change = on_change
        self._links: dict[str, _Link] = {}
        self._changed = asyncio.Condition()
        self._in_flight = 0
        self._finished: deque[float] = deque(maxlen=64)

    @property
    def in_flight(self) -> int:
        """Jobs that were taken and not yet answered."""
        return self._in_flight

    def catalogues(self) -> list[Catalogue]:
        """What each connected worker serves."""
        return [link.catalogue for link in self._links.values() if link.catalogue]

    async def use(self, endpoints: Iterable[str]) -> None:
        """Connect to the workers that exist now. Those that are gone have hung up by themselves."""
        for endpoint in set(endpoints) - set(self._links):
            try:
                reader, writer = await asyncio.open_unix_connection(endpoint)
            except OSError as exc:
                log.warning("worker at %s went before it was reached: %s", endpoint, exc)
                continue
            link = _Link(reader, writer)
            self._links[endpoint] = link
            link.task = asyncio.create_task(self._attend(endpoint, link))

    async def close(self) -> None:
        """Hang up on all workers."""
        tasks = [link.task for link in self._links.values() if link.task]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def submit(self, job: Job) -> JobResult:
        """Run a job on a worker that has its model, and survive that worker's death.

        The caller keeps the deadline: a job that is given up is cancelled at its worker too.

        Raises:
            Overloaded: too many jobs are in flight.
            NoWorker: no worker has the model.
            WorkerLost: the workers died, and none came back in time.
            PoisonInput: two workers died with this picture alone on the device.
            CamserveError: what the worker answered.
        """
        if self._in_flight >= self._max_queue:
            raise self._overloaded()
        self._count(+1)
        try:
            return await self._with_retries(job)
        finally:
            self._count(-1)
            self._finished.append(time.monotonic())

    async def _with_retries(self, job: Job) -> JobResult:
        link = self._choose(job)
        alone_deaths = 0
        for _ in range(_MAX_ATTEMPTS):
            if link is None:
                raise NoWorker("No worker is ready for this model now.", retry_after=2)
            try:
                return await link.run(job)
            except _Died as death:
                alone_deaths += death.was_alone
                if alone_deaths >= _ALONE_DEATHS:
                    raise PoisonInput(
                        "Two workers ended while they worked on this picture."
                    ) from death
            job = replace(job, alone=True)
            link = await self._next_worker(job)
        raise WorkerLost("The workers ended again and again. Try later.", retry_after=5)

    async def _next_worker(self, job: Job) -> "_Link":
        """Wait for a worker that has the model, almost until the deadline."""
        margin = min(0.25, 0.1 * (job.deadline - time.monotonic()))
        try:
            async with asyncio.timeout_at(_loop_time(job.deadline) - margin), self._changed:
                await self._changed.wait_for(lambda: self._choose(job))
        except TimeoutError as exc:
            raise WorkerLost("The worker ended; no other one is ready yet.", retry_after=2) from exc
        link = self._choose(job)
        assert link is not None  # noqa: S101 - nothing ran since wait_for saw it
        return link

    def _choose(self, job: Job) -> "_Link | None":
        able = [link for link in self._links.values() if link.serves(job)]
        return min(able, key=lambda link: len(link.pending), default=None)

    async def _attend(self, endpoint: str, link: "_Link") -> None:
        """Read what a worker says until it hangs up."""
        try:
            while True:
                header, frames = await receive(link.reader)
                if header["kind"] == "catalogue":
                    link.catalogue = Catalogue.model_validate_json(frames[0])
                    await self._notify()
                else:
                    link.take(header, frames)
        except (asyncio.IncompleteReadError, ConnectionResetError):
            log.warning("worker at %s hung up with %d jobs", endpoint, len(link.pending))
        finally:
            del self._links[endpoint]
            link.die()
            await self._notify()

    async def _notify(self) -> None:
        async with self._changed:
            self._changed.notify_all()

    def _count(self, change: int) -> None:
        self._in_flight += change
        self._on_change(self._in_flight)

    def _overloaded(self) -> Overloaded:
        """Come back when what waits now is done, at the rate of the last jobs."""
        span = time.monotonic() - self._finished[0] if self._finished else 1.0
        rate = max(len(self._finished) / max(span, 1e-3), 0.1)
        seconds = math.ceil(min(self._in_flight / rate, 60))
        return Overloaded(
            f"{self._in_flight} requests are in flight, which is the limit.", retry_after=seconds
        )


class _Died(Exception):
    """The worker hung up. ``was_alone``: it had this job, and no other, on the device."""

    def __init__(self, *, was_alone: bool) -> None:
        self.was_alone = was_alone


@dataclass(eq=False)
class _Link:
    """A connection to one life of one worker."""

    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter
    catalogue: Catalogue | None = None
    pending: dict[int, asyncio.Future[JobResult]] = field(default_factory=dict)
    task: asyncio.Task[None] | None = None
    _on_device: tuple[list[int], int] = ([], 0)
    _ids: "itertools.count[int]" = field(default_factory=itertools.count)

    def serves(self, job: Job) -> bool:
        return self.catalogue is not None and any(
            model.name == job.model and model.state == "ready" and model.version == job.version
            for model in self.catalogue.models
        )

    async def run(self, job: Job) -> JobResult:
        job_id = next(self._ids)
        future: asyncio.Future[JobResult] = asyncio.get_running_loop().create_future()
        self.pending[job_id] = future
        self.writer.writelines(pack_job(job_id, job))
        try:
            return await future
        finally:
            if self.pending.pop(job_id, None):  # nobody answered it: its caller has gone
                self.writer.writelines(pack({"kind": "cancel", "id": job_id}))

    def take(self, header: Header, frames: list[bytes]) -> None:
        if header["kind"] == "begin":
            self._on_device = (header["ids"], header["rows"])
            return
        future = self.pending.pop(header["id"], None)
        if future is None or future.done():
            return  # its caller has gone
        if header["kind"] == "result":
            future.set_result(unpack_result(header, frames))
        else:
            future.set_exception(unpack_error(header))

    def die(self) -> None:
        ids, rows = self._on_device
        for job_id, future in self.pending.items():
            if not future.done():
                future.set_exception(_Died(was_alone=rows == 1 and job_id in ids))
        self.pending.clear()
        self.writer.close()


def _loop_time(monotonic: float) -> float:
    """A time of ``time.monotonic()`` on the event loop's clock."""
    return asyncio.get_running_loop().time() + (monotonic - time.monotonic())
