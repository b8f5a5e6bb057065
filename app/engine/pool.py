"""The parent: starts the http and worker processes, watches them, and starts them again.

It serves nothing and imports neither torch nor Pillow. Each child holds one end of a pipe; signals
go to the parent alone, and a child ends when told to, or when its pipe closes.
"""

import asyncio
import contextlib
import logging
import signal
import socket
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Coroutine, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from app.engine.control import Control, Line
from app.engine.environment import environment
from app.engine.manager import Manager
from app.engine.place import Place, Process
from app.engine.signals import either, first_of, signals
from app.errors import CamserveError
from app.machine import cores
from app.metrics import MetricsRegistry
from app.settings import Settings

if TYPE_CHECKING:
    from app.backbones.manifest import Manifest

log = logging.getLogger(__name__)

_START_S = 300  # for a child to begin: a worker imports torch, on a slow disk
_LONG_LIFE_S = 10  # a child that did its work for so long is started again at once
_BACKOFF_S = (0.0, 0.0, 0.4, 0.8, 1.6, 3.2, 6.4, 12.8, 30.0)  # after so many short lives in a row
_END_S = 5.0  # for a child to end after it was told to


class Pool:
    """All processes of one service.

    Args:
        settings: for all of them.
        manifests: of the models that there are.
        devices: a worker for each.
        listeners: a bound TCP socket for each http process; they outlive the processes.
    """

    def __init__(
        self,
        settings: Settings,
        manifests: "Mapping[str, Manifest]",
        devices: Sequence[str],
        listeners: Sequence[socket.socket],
    ) -> None:
        self._settings = settings
        self._listeners = listeners
        self._metrics = MetricsRegistry()
        self._workers = [Place("worker", n, device) for n, device in enumerate(devices)]
        self._https = [Place("http", n, listener=s) for n, s in enumerate(listeners)]
        self._spare: Process | None = None
        self._spare_wanted = asyncio.Event()
        on_cpu = sum(device == "cpu" for device in devices)
        self._threads = max(1, cores() // max(1, on_cpu))  # of a worker, for torch
        self._draining = False
        self._folder = Path()
        self._manager = Manager(settings.models_dir, manifests, settings.models, self._tell_workers)
        self._tasks: set[asyncio.Task[None]] = set()  # the loop itself holds them weakly

    async def run(self) -> None:
        """Run until SIGTERM or SIGINT, then drain; a second signal ends it at once."""
        first, second = signals()
        asyncio.get_running_loop().add_signal_handler(
            signal.SIGHUP, lambda: self._begin(self._manager.reload())
        )
        with tempfile.TemporaryDirectory(prefix="camserve-") as folder:
            self._folder = Path(folder)
            keepers = [asyncio.create_task(self._keep(p)) for p in self._https + self._workers]
            keepers.append(asyncio.create_task(self._keep_spare()))
            try:
                received = await first_of(first, keepers)
                with contextlib.suppress(asyncio.CancelledError):
                    await either(self._drain(patient=received == signal.SIGTERM), second)
            finally:
                await self._end(keepers)

    async def _keep(self, place: Place) -> None:
        """Fill a place, attend to its process, and fill it again when that ends."""
        while place.wanted:
            worked = 0.0
            try:
                worked = await self._live(place)
            except OSError as exc:  # no memory, no descriptors: that may pass
                log.error("%s cannot be started: %s", place.name, exc)  # noqa: TRY400
            if place.wanted:
                await self._pause(place, self._backoff(place, worked))

    async def _live(self, place: Place) -> float:
        """One life of a process: how long it did its work."""
        place.child = await self._next(place.role)
        place.lives += 1
        place.send(self._brief(place))
        place.briefed = True
        if place.role == "worker":
            for line in self._manager.pending():
                place.send(line)
        return await self._attend(place, place.child)

    async def _pause(self, place: Place, seconds: float) -> None:
        """Wait before a place is filled again; where at once, callers wait for that."""
        if seconds:
            place.refuse()
            await asyncio.sleep(seconds)
            place.listen()

    def _backoff(self, place: Place, worked: float) -> float:
        """Seconds until the place is filled again."""
        place.short_lives = place.short_lives + 1 if worked < _LONG_LIFE_S else 0
        delay = _BACKOFF_S[min(place.short_lives, len(_BACKOFF_S) - 1)]
        log.warning("%s ended after %.1f s of work; again in %.1f s", place.name, worked, delay)
        self._metrics.add("restarts", 1, {"role": place.role})
        return delay

    async def _next(self, role: str) -> Process:
        """A process for a place: of http processes the spare one, which serves at once."""
        spare = self._spare if role == "http" else None
        if spare:
            self._spare = None
            self._spare_wanted.set()
        return spare if spare and spare.is_alive else await self._spawn(role)

    async def _keep_spare(self) -> None:
        """Have one http process ready with its code loaded: that takes most of a second."""
        while True:
            await self._spare_wanted.wait()
            self._spare_wanted.clear()
            if self._spare or self._draining:
                continue
            try:
                self._spare = await self._spawn("http")
            except OSError as exc:
                log.error("no spare http process: %s", exc)  # noqa: TRY400 - wanted again later

    async def _spawn(self, role: str) -> Process:
        """Start a process; it loads its code, and waits for its brief."""
        ours, theirs = socket.socketpair()
        passed = [theirs.fileno()]
        if role == "http":
            passed += self._descriptors()
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "app", "child", role, str(theirs.fileno())),
            pass_fds=passed,
            stdin=asyncio.subprocess.DEVNULL,
            env=environment(role),
        )
        theirs.close()
        return Process(process, await Control.open(ours))

    def _brief(self, place: Place) -> Line:
        """A child's first line: all that it must know."""
        return {
            "kind": "start",
            "name": place.name,
            "settings": self._settings.model_dump(mode="json"),
            "device": place.device,
            "threads": self._threads,
            "endpoint": str(self._folder / f"{place.name}.{place.lives}.sock"),
            "number": place.number,
            "listeners": self._descriptors(),
            "endpoints": self._endpoints(),
            "draining": self._draining,
            **(self._manager.brief() if place.role == "worker" else {}),
        }

    async def _attend(self, place: Place, child: Process) -> float:
        """Serve a process's requests until it is gone; how long that was, from the first one on."""
        lines = child.control.lines()
        begun = None
        while line := await self._next_line(place, child, lines, begun=begun is not None):
            begun = begun or time.monotonic()
            self._take(place, child, line)
        child.control.close()
        place.briefed = False
        self._manager.lost(place.name)
        self._metrics.forget(place.name)
        if place.endpoint:
            place.endpoint = ""
            self._tell_endpoints()
        await child.process.wait()
        return time.monotonic() - begun if begun else 0.0

    async def _next_line(
        self, place: Place, child: Process, lines: AsyncIterator[Line], *, begun: bool
    ) -> Line | None:
        """A child's next line, or None once it is gone; one that hangs is ended."""
        try:
            async with asyncio.timeout(self._settings.hang_s if begun else _START_S):
                return await anext(lines, None)
        except TimeoutError:
            log.error("%s hangs and is killed", place.name)  # noqa: TRY400 - time is the cause
            child.process.kill()
            return None

    def _take(self, place: Place, child: Process, line: Line) -> None:
        if line["kind"] == "metrics":
            for name, value, labels in line["events"]:
                self._metrics.add(name, value, labels)
        elif line["kind"] == "listening":
            place.endpoint = line["endpoint"]
            self._tell_endpoints()
        elif line["kind"] == "loaded":
            self._spare_wanted.set()  # not before: at the start a worker needs the cores
        elif line["kind"] == "scrape":
            place.send({"kind": "page", "id": line["id"], "text": self._metrics.page()})
        elif line["kind"] == "manage":
            self._begin(self._manage(child, line))
        elif line["kind"] == "done":
            self._manager.done(place.name, line)

    async def _manage(self, child: Process, line: Line) -> None:
        """Load or unload a model for an http process; its successor would not know of it."""
        error = None
        try:
            await self._manager.manage(line["action"], line["name"])
        except CamserveError as exc:
            error = exc.as_line()
        child.control.send({"kind": "done", "id": line["id"], "error": error})

    def _begin(self, work: Coroutine[None, None, None]) -> None:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def _tell_workers(self, line: Line) -> set[str]:
        told = [worker for worker in self._workers if worker.briefed]
        for worker in told:
            worker.send(line)
        return {worker.name for worker in told}

    def _descriptors(self) -> list[int]:
        return [listener.fileno() for listener in self._listeners]

    def _endpoints(self) -> list[str]:
        return [worker.endpoint for worker in self._workers if worker.endpoint]

    def _tell_endpoints(self) -> None:
        self._tell_https({"kind": "workers", "endpoints": self._endpoints()})

    def _tell_https(self, line: Line) -> None:
        for place in self._https:
            place.send(line)

    async def _drain(self, *, patient: bool) -> None:
        """Lose no request: /readyz says 503 first, and only after the delay nothing is accepted.

        A person at a terminal (SIGINT) is not made to wait for load balancers.
        """
        log.info("draining")
        self._draining = True
        self._tell_https({"kind": "drain"})
        if patient:
            await asyncio.sleep(self._settings.drain_delay_s)
        for place in self._https:  # the workers are still needed
            place.wanted = False
        self._tell_https({"kind": "stop"})
        for listener in self._listeners:
            listener.close()
        if self._spare:  # it holds the listeners too, and would let callers wait for nothing
            self._spare.control.close()
        ends = [place.child.process.wait() for place in self._https if place.child]
        with contextlib.suppress(TimeoutError):  # whoever is left is killed in _end
            await asyncio.wait_for(asyncio.gather(*ends), self._settings.grace_s + 1)

    async def _end(self, keepers: Sequence[asyncio.Task[None]]) -> None:
        """Close every pipe, so that every child ends; kill those that do not."""
        self._draining = True
        places = self._https + self._workers
        for place in places:
            place.wanted = False
        children = [child for child in (*(place.child for place in places), self._spare) if child]
        for child in children:
            child.control.close()
        for child in children:
            try:
                await asyncio.wait_for(child.process.wait(), _END_S)
            except TimeoutError:
                log.warning("process %d did not end and is killed", child.process.pid)
                child.process.kill()
        tasks = [*keepers, *self._tasks]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
