"""The parent: starts the http and worker processes, watches them, and starts them again.

It serves nothing and imports neither torch nor Pillow. Each child holds one end of a pipe; signals
go to the parent alone, and a child ends when told to, or when its pipe closes.
"""

import asyncio
import contextlib
import logging
import os
import signal
import socket
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Coroutine, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from app.engine.control import Control, Line
from app.metrics import MetricsRegistry
from app.settings import Settings

log = logging.getLogger(__name__)

_START_S = 300  # for a worker to import torch and listen, on a slow disk
_LONG_LIFE_S = 10  # a child that did its work for so long is started again at once
_BACKOFF_S = (0.0, 0.0, 0.4, 0.8, 1.6, 3.2, 6.4, 12.8, 30.0)  # after so many short lives in a row
_END_S = 5.0  # for a child to end after it was told to


@dataclass(eq=False)
class _Process:
    """A child process and our end of its pipe."""

    process: asyncio.subprocess.Process
    control: Control

    @property
    def is_alive(self) -> bool:
        return self.process.returncode is None


@dataclass(eq=False)
class _Place:
    """A place in the pool, and the process that fills it now."""

    role: str
    number: int
    device: str = ""
    wanted: bool = True  # until the service ends
    child: _Process | None = None
    endpoint: str = ""  # of a worker that listens
    lives: int = 0
    short_lives: int = 0

    @property
    def name(self) -> str:
        return f"{self.role}-{self.number}"

    def send(self, line: Line) -> None:
        if self.child:
            self.child.control.send(line)


class Pool:
    """All processes of one service.

    Args:
        settings: for all of them.
        devices: a worker for each.
        listener: the bound TCP socket that the http processes share; it outlives each of them.
    """

    def __init__(self, settings: Settings, devices: Sequence[str], listener: socket.socket) -> None:
        self._settings = settings
        self._listener = listener
        self._metrics = MetricsRegistry()
        self._workers = [_Place("worker", n, device) for n, device in enumerate(devices)]
        self._https = [_Place("http", n) for n in range(settings.http_processes)]
        self._spare: _Process | None = None
        self._spare_wanted = asyncio.Event()
        on_cpu = sum(device == "cpu" for device in devices)
        self._threads = max(1, (os.cpu_count() or 1) // max(1, on_cpu))  # of a worker, for torch
        self._draining = False
        self._folder = Path()

    async def run(self) -> None:
        """Run until SIGTERM or SIGINT, then drain; a second signal ends it at once."""
        first, second = _signals()
        with tempfile.TemporaryDirectory(prefix="camserve-") as folder:
            self._folder = Path(folder)
            keepers = [asyncio.create_task(self._keep(p)) for p in self._https + self._workers]
            keepers.append(asyncio.create_task(self._keep_spare()))
            try:
                received = await _first_of(first, keepers)
                with contextlib.suppress(asyncio.CancelledError):
                    await _either(self._drain(patient=received == signal.SIGTERM), second)
            finally:
                await self._end(keepers)

    async def _keep(self, place: _Place) -> None:
        """Fill a place, attend to its process, and fill it again when that ends."""
        while place.wanted:
            worked = 0.0
            try:
                worked = await self._live(place)
            except OSError as exc:  # no memory, no descriptors: that may pass
                log.error("%s cannot be started: %s", place.name, exc)  # noqa: TRY400
            if place.wanted:
                await asyncio.sleep(self._backoff(place, worked))

    async def _live(self, place: _Place) -> float:
        """One life of a process: how long it did its work."""
        place.child = await self._next(place.role)
        place.lives += 1
        place.send(self._brief(place))
        return await self._attend(place, place.child)

    def _backoff(self, place: _Place, worked: float) -> float:
        """Seconds until the place is filled again."""
        place.short_lives = place.short_lives + 1 if worked < _LONG_LIFE_S else 0
        delay = _BACKOFF_S[min(place.short_lives, len(_BACKOFF_S) - 1)]
        log.warning("%s ended after %.1f s of work; again in %.1f s", place.name, worked, delay)
        self._metrics.add("restarts", 1, {"role": place.role})
        return delay

    async def _next(self, role: str) -> _Process:
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

    async def _spawn(self, role: str) -> _Process:
        """Start a process; it loads its code, and waits for its brief."""
        ours, theirs = socket.socketpair()
        passed = [theirs.fileno()]
        if role == "http":
            passed.append(self._listener.fileno())
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "app", "child", role, str(theirs.fileno())),
            pass_fds=passed,
            stdin=asyncio.subprocess.DEVNULL,
        )
        theirs.close()
        return _Process(process, await Control.open(ours))

    def _brief(self, place: _Place) -> Line:
        """A child's first line: all that it must know."""
        return {
            "kind": "start",
            "name": place.name,
            "settings": self._settings.model_dump(mode="json"),
            "device": place.device,
            "threads": self._threads,
            "endpoint": str(self._folder / f"{place.name}.{place.lives}.sock"),
            "listener": self._listener.fileno(),
            "endpoints": self._endpoints(),
            "draining": self._draining,
        }

    async def _attend(self, place: _Place, child: _Process) -> float:
        """Serve a process's requests until it is gone; how long that was, from the first one on."""
        lines = child.control.lines()
        begun = None
        while line := await self._next_line(place, child, lines):
            begun = begun or time.monotonic()
            self._take(place, line)
        child.control.close()
        self._metrics.forget(place.name)
        if place.endpoint:
            place.endpoint = ""
            self._tell_endpoints()
        await child.process.wait()
        return time.monotonic() - begun if begun else 0.0

    async def _next_line(
        self, place: _Place, child: _Process, lines: AsyncIterator[Line]
    ) -> Line | None:
        """A child's next line, or None once it is gone; a worker that hangs is ended."""
        patience = self._settings.hang_s if place.endpoint else _START_S
        try:
            async with asyncio.timeout(patience if place.role == "worker" else None):
                return await anext(lines, None)
        except TimeoutError:
            log.error("%s hangs and is killed", place.name)  # noqa: TRY400 - time is the cause
            child.process.kill()
            return None

    def _take(self, place: _Place, line: Line) -> None:
        if line["kind"] == "metrics":
            for name, value, labels in line["events"]:
                self._metrics.add(name, value, labels)
        elif line["kind"] == "listening":
            place.endpoint = line["endpoint"]
            self._tell_endpoints()
            self._spare_wanted.set()  # not before: at the start a worker needs the cores
        elif line["kind"] == "scrape":
            place.send({"kind": "page", "id": line["id"], "text": self._metrics.page()})

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
        self._listener.close()
        if self._spare:  # it holds the listener too, and would let callers wait for nothing
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
        for keeper in keepers:
            keeper.cancel()
        await asyncio.gather(*keepers, return_exceptions=True)


def _signals() -> tuple["asyncio.Future[signal.Signals]", "asyncio.Future[signal.Signals]"]:
    """Futures of the first and of the second signal to end."""
    loop = asyncio.get_running_loop()
    first, second = loop.create_future(), loop.create_future()

    def on_signal(number: signal.Signals) -> None:
        future = second if first.done() else first
        if not future.done():
            future.set_result(number)

    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, on_signal, number)
    return first, second


async def _first_of(
    received: "asyncio.Future[signal.Signals]", keepers: Sequence[asyncio.Task[None]]
) -> signal.Signals:
    """The signal that came; a keeper that fails instead ends the service with its error."""
    waiting: list[asyncio.Future[Any]] = [received, *keepers]
    await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
    for keeper in keepers:
        if keeper.done():
            keeper.result()
    return await received


async def _either(
    work: Coroutine[None, None, None], stop: "asyncio.Future[signal.Signals]"
) -> None:
    """Do the work, unless ``stop`` comes first."""
    task = asyncio.create_task(work)
    waiting: list[asyncio.Future[Any]] = [task, stop]
    await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
    task.cancel()
    await task
