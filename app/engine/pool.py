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

_LONG_LIFE_S = 10  # a child that lived so long is started again at once
_MAX_BACKOFF_S = 30.0
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
        self._stopping = False
        self._folder = Path()

    async def run(self) -> None:
        """Run until SIGTERM or SIGINT, then drain; a second signal ends it at once."""
        first, second = _signals()
        with tempfile.TemporaryDirectory(prefix="camserve-") as folder:
            self._folder = Path(folder)
            keepers = [asyncio.create_task(self._keep(p)) for p in self._https + self._workers]
            keepers.append(asyncio.create_task(self._keep_spare()))
            try:
                received = await first
                with contextlib.suppress(asyncio.CancelledError):
                    await _either(self._drain(patient=received == signal.SIGTERM), second)
            finally:
                await self._end(keepers)

    async def _keep(self, place: _Place) -> None:
        """Fill a place, attend to its process, and fill it again when that ends."""
        while not self._stopping:
            started = time.monotonic()
            place.child = await self._next(place.role)
            place.lives += 1
            place.send(self._brief(place))
            await self._attend(place, place.child)
            if self._stopping:
                return
            lived = time.monotonic() - started
            place.short_lives = place.short_lives + 1 if lived < _LONG_LIFE_S else 0
            delay = min(0.1 * 2**place.short_lives, _MAX_BACKOFF_S) if place.short_lives > 1 else 0
            log.warning("%s ended after %.1f s; again in %.1f s", place.name, lived, delay)
            self._metrics.add("restarts", 1, {"role": place.role})
            await asyncio.sleep(delay)

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
            if self._spare is None:
                self._spare = await self._spawn("http")

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
        }

    async def _attend(self, place: _Place, child: _Process) -> None:
        """Serve a process's requests until it is gone."""
        if place.role == "http":
            place.send(self._endpoints())
        lines = child.control.lines()
        while line := await self._next_line(place, child, lines):
            self._take(place, line)
        child.control.close()
        if place.endpoint:
            place.endpoint = ""
            self._tell_https(self._endpoints())
        await child.process.wait()

    async def _next_line(
        self, place: _Place, child: _Process, lines: AsyncIterator[Line]
    ) -> Line | None:
        """A child's next line, or None once it is gone; a worker that hangs is ended."""
        try:
            async with asyncio.timeout(self._settings.hang_s if place.endpoint else None):
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
            self._tell_https(self._endpoints())
            self._spare_wanted.set()  # not before: at the start a worker needs the cores
        elif line["kind"] == "scrape":
            place.send({"kind": "page", "id": line["id"], "text": self._metrics.page()})

    def _endpoints(self) -> Line:
        endpoints = [worker.endpoint for worker in self._workers if worker.endpoint]
        return {"kind": "workers", "endpoints": endpoints}

    def _tell_https(self, line: Line) -> None:
        for place in self._https:
            place.send(line)

    async def _drain(self, *, patient: bool) -> None:
        """Lose no request: /readyz says 503 first, and only after the delay nothing is accepted.

        A person at a terminal (SIGINT) is not made to wait for load balancers.
        """
        log.info("draining")
        self._tell_https({"kind": "drain"})
        if patient:
            await asyncio.sleep(self._settings.drain_delay_s)
        self._stopping = True
        self._tell_https({"kind": "stop"})
        self._listener.close()
        ends = [place.child.process.wait() for place in self._https if place.child]
        with contextlib.suppress(TimeoutError):  # whoever is left is killed in _end
            await asyncio.wait_for(asyncio.gather(*ends), self._settings.grace_s + 1)

    async def _end(self, keepers: Sequence[asyncio.Task[None]]) -> None:
        """Close every pipe, so that every child ends; kill those that do not."""
        self._stopping = True
        places = [place.child for place in self._https + self._workers]
        children = [child for child in (*places, self._spare) if child]
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


async def _either(
    work: Coroutine[None, None, None], stop: "asyncio.Future[signal.Signals]"
) -> None:
    """Do the work, unless ``stop`` comes first."""
    task = asyncio.create_task(work)
    waiting: list[asyncio.Future[Any]] = [task, stop]
    await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
    task.cancel()
    await task
