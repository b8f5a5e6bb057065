"""The http side of the engine: which worker takes a job, and what happens when it dies."""

import asyncio
import contextlib
import itertools
import logging
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace

from app.engine.wire import (
    Data,
    Header,
    pack,
    pack_job,
    receive,
    unpack_error,
    unpack_result,
    widen,
)
from app.errors import (
    ModelReplaced,
    NoWorker,
    PoisonInput,
    WorkerLost,
)
from app.types import Catalogue, Job, JobResult, Progress

log = logging.getLogger(__name__)

OnProgress = Callable[[Progress], None]

_MAX_ATTEMPTS = 4
_ALONE_DEATHS = 2  # a row that was alone on the device at two deaths is refused for good
_RECONNECT_S = 0.1


class EngineClient:
    """Any http process can use any worker.

    Args:
        on_change: called with the number of jobs in flight whenever it changes.
    """

    def __init__(self, on_change: Callable[[int], None] = lambda _in_flight: None) -> None:
        self._on_change = on_change
        self._endpoints: set[str] = set()
        self._keepers: dict[str, asyncio.Task[None]] = {}
        self._links: dict[str, _Link] = {}
        self._changed = asyncio.Condition()
        self._in_flight = 0

    def catalogues(self) -> list[Catalogue]:
        """What each connected worker serves."""
        return [link.catalogue for link in self._links.values() if link.catalogue]

    def use(self, endpoints: Iterable[str]) -> None:
        """Be connected to the workers that exist now, and to no others."""
        self._endpoints = set(endpoints)
        for endpoint in self._endpoints - self._keepers.keys():
            self._keepers[endpoint] = asyncio.create_task(self._keep(endpoint))

    async def heard(self, seconds: float) -> None:
        """Wait until every worker has said what it serves, but not longer than that."""

        def all_known() -> bool:
            links = [self._links.get(endpoint) for endpoint in self._endpoints]
            return all(link and link.catalogue for link in links)

        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds), self._changed:
                await self._changed.wait_for(all_known)

    async def close(self) -> None:
        """Hang up on all workers."""
        self._endpoints = set()
        tasks = list(self._keepers.values())
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def submit(self, job: Job, on_progress: OnProgress | None = None) -> JobResult:
        """Run a job on a worker that has its model, and survive that worker's death.

        The caller keeps the deadline: a job that is given up is cancelled at its worker too.
        ``on_progress`` is called while a slow job runs.

        Raises:
            NoWorker: no worker has the model.
            ModelReplaced: the workers have another version of it by now.
            WorkerLost: the workers died, and none came back in time.
            PoisonInput: two workers died with this picture alone on the device.
            CamserveError: what the worker answered.
        """
        self._count(+1)
        try:
            return await self._with_retries(job, on_progress)
        finally:
            self._count(-1)

    async def _with_retries(self, job: Job, on_progress: OnProgress | None) -> JobResult:
        link = self._choose(job)
        if link is None:
            self._check_replaced(job)
            raise NoWorker("No worker is ready for this model now.", retry_after=2)
        alone_deaths = 0
        for _ in range(_MAX_ATTEMPTS):
            try:
                return await link.run(job, on_progress)
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
                await self._changed.wait_for(lambda: self._choose(job) or self._replaced(job))
        except TimeoutError as exc:
            raise WorkerLost("The worker ended; no other one is ready yet.", retry_after=2) from exc
        link = self._choose(job)
        if link is None:
            self._check_replaced(job)
        assert link is not None  # noqa: S101 - nothing ran since wait_for saw it
        return link

    def _check_replaced(self, job: Job) -> None:
        if self._replaced(job):
            raise ModelReplaced(f"{job.model!r} was replaced by another version. Try again.")

    def _replaced(self, job: Job) -> bool:
        return any(link.serves(job, any_version=True) for link in self._links.values())

    def _choose(self, job: Job) -> "_Link | None":
        able = [link for link in self._links.values() if link.serves(job)]
        return min(able, key=lambda link: len(link.pending), default=None)

    async def _keep(self, endpoint: str) -> None:
        """Keep a connection to a worker for as long as the parent says that it exists."""
        try:
            while endpoint in self._endpoints:
                try:
                    reader, writer = await asyncio.open_unix_connection(endpoint)
                except OSError as exc:
                    log.warning("worker at %s is not reached: %s", endpoint, exc)
                else:
                    widen(writer.get_extra_info("socket"))
                    await self._attend(endpoint, _Link(reader, writer))
                await asyncio.sleep(_RECONNECT_S)  # most likely it has gone, and is not listed soon
        finally:
            del self._keepers[endpoint]

    async def _attend(self, endpoint: str, link: "_Link") -> None:
        """Read what a worker says until it hangs up."""
        self._links[endpoint] = link
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
        except Exception:
            log.exception("worker at %s is not understood: its line is cut", endpoint)
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


class _Died(Exception):
    """The worker hung up. ``was_alone``: it had this job, and no other, on the device."""

    def __init__(self, *, was_alone: bool) -> None:
        self.was_alone = was_alone


@dataclass(frozen=True, slots=True)
class _Pending:
    """A job at a worker."""

    answer: asyncio.Future[JobResult]
    on_progress: OnProgress | None


@dataclass(eq=False)
class _Link:
    """A connection to one life of one worker."""

    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter
    catalogue: Catalogue | None = None
    pending: dict[int, _Pending] = field(default_factory=dict)
    _alone: int | None = None  # of the jobs: has the device to itself
    _ids: "itertools.count[int]" = field(default_factory=itertools.count)

    def serves(self, job: Job, *, any_version: bool = False) -> bool:
        return self.catalogue is not None and any(
            model.name == job.model
            and model.state == "ready"
            and (any_version or model.version == job.version)
            for model in self.catalogue.models
        )

    async def run(self, job: Job, on_progress: OnProgress | None) -> JobResult:
        job_id = next(self._ids)
        future: asyncio.Future[JobResult] = asyncio.get_running_loop().create_future()
        self.pending[job_id] = _Pending(future, on_progress)
        self.writer.writelines(pack_job(job_id, job))
        try:
            return await future
        finally:
            if self.pending.pop(job_id, None):  # nobody answered it: its caller has gone
                self.writer.writelines(pack({"kind": "cancel", "id": job_id}))

    def take(self, header: Header, frames: Sequence[Data]) -> None:
        if header["kind"] == "alone":
            self._alone = header["id"]
            return
        job = self.pending.get(header["id"])
        if job is None or job.answer.done():
            return  # its caller has gone
        if header["kind"] == "progress":
            if job.on_progress:
                job.on_progress(Progress(header["done"], header["total"]))
            return
        del self.pending[header["id"]]
        if header["kind"] == "result":
            job.answer.set_result(unpack_result(header, frames))
        else:
            job.answer.set_exception(unpack_error(header))

    def die(self) -> None:
        for job_id, job in self.pending.items():
            if not job.answer.done():
                job.answer.set_exception(_Died(was_alone=job_id == self._alone))
        self.pending.clear()
        self.writer.close()


def _loop_time(monotonic: float) -> float:
    """A time of ``time.monotonic()`` on the event loop's clock."""
    return asyncio.get_running_loop().time() + (monotonic - time.monotonic())
