"""The load generator, a process of its own.

Run as: python -m benchmark.generator < SPEC. It prints ``begin`` and ``end`` around the window that
is measured, so that its parent can read the servers' clocks at the same moments, and then one line
of JSON.
"""

import asyncio
import gc
import json
import math
import random
import re
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from itertools import chain, repeat
from pathlib import Path
from typing import Any

from benchmark.connection import Connection
from benchmark.statistics import percentile

_PERCENTS = (50, 90, 95, 99)
_OK = 200
_FAILED, _NOT_SENT = 0, -1  # in place of a status
_MAX_IN_FLIGHT = 512  # an open loop at more than a server's rate would grow for ever
_WARM_LIMIT_S = _DRAIN_S = 30
_PAUSE_S = 0.05  # after a connection failed
_KEEP_EVERY = 10  # of the answers, for the stages that they tell
_TIMINGS = re.compile(rb'"timings_ms"\s*:\s*(\{[^}]*\})')


@dataclass(frozen=True, slots=True)
class Spec:
    """What to send, and how. With ``rate`` an open loop of so many a second, else ``clients``.

    ``warm_s`` is the least time before the window; ``seed`` draws an open loop's arrivals.
    """

    port: int
    path: str
    pictures: Sequence[str]
    seconds: float
    warm_s: float = 1.0
    clients: int = 1
    rate: float | None = None
    seed: int = 0


@dataclass(slots=True)
class Record:
    """What happened: for each request its start, its end, and its status."""

    requests: list[tuple[float, float, int]] = field(default_factory=list)
    bodies: list[bytes] = field(default_factory=list)

    def add(self, started: float, status: int, body: bytes = b"") -> None:
        self.requests.append((started, time.perf_counter(), status))
        if body:
            self.bodies.append(body)


class Load:
    """One measurement of a server that has as much to do before the window, and after it, as in it.

    A closed loop's window begins when each client has had an answer: they all begin at once, and
    until then the first ones have waited for less than a round of all clients takes. The load goes
    on until what was sent within the window is answered.

    Args:
        spec: of what.
        say: is told ``begin`` and ``end``.
    """

    def __init__(self, spec: Spec, say: Callable[[str], None]) -> None:
        self._spec = spec
        self._say = say
        self._requests = [_request(spec, Path(name).read_bytes()) for name in spec.pictures]
        self.record = Record()
        self._sent = 0
        self._idle: list[Connection] = []
        self._begin = self._end = math.inf
        self._waited_for = 0  # requests that were sent before the end
        self._is_warm = asyncio.Event()  # each client has had an answer

    async def run(self) -> dict[str, Any]:
        """Send, and give the figures."""
        loading = asyncio.create_task(self._open() if self._spec.rate else self._closed())
        try:
            generator_s = await self._window()
            await asyncio.wait([loading], timeout=_DRAIN_S)
            if loading.done():
                loading.result()  # what went wrong in it is told
        finally:
            loading.cancel()
            await asyncio.wait([loading])
            for connection in self._idle:
                connection.close()
        return self._figures() | {"generator_s": generator_s}

    async def _window(self) -> float:
        """The processor time that this process needs between begin and end."""
        await asyncio.sleep(self._spec.warm_s)
        with suppress(TimeoutError):  # a server may never answer, or some clients never
            await asyncio.wait_for(self._is_warm.wait(), _WARM_LIMIT_S)
        self._begin = time.perf_counter()
        self._end = self._begin + self._spec.seconds
        self._say("begin")
        used = time.process_time()
        await _sleep_until(self._end)
        used = time.process_time() - used
        self._say("end")
        return used

    def _is_over(self) -> bool:
        return time.perf_counter() >= self._end and not self._waited_for

    async def _closed(self) -> None:
        cold = set(range(self._spec.clients))

        async def client(number: int) -> None:
            while not self._is_over():
                await self._one(time.perf_counter())
                cold.discard(number)
                if not cold:
                    self._is_warm.set()

        await asyncio.gather(*map(client, range(self._spec.clients)))

    async def _open(self) -> None:
        """Nothing waits for answers."""
        self._is_warm.set()
        begin, tasks = time.perf_counter(), set[asyncio.Task[None]]()
        async with asyncio.TaskGroup() as group:
            for moment in arrivals(self._spec):
                due = begin + moment
                await _sleep_until(due)
                if self._is_over():
                    break
                if len(tasks) < _MAX_IN_FLIGHT:
                    task = group.create_task(self._one(due))
                    tasks.add(task)
                    task.add_done_callback(tasks.discard)
                else:
                    self.record.add(due, _NOT_SENT)

    async def _one(self, started: float) -> None:
        """A request; its latency counts from when it was due."""
        self._sent += 1
        is_waited_for = started < self._end
        self._waited_for += is_waited_for
        try:
            await self._ask(started)
        finally:
            self._waited_for -= is_waited_for

    async def _ask(self, started: float) -> None:
        number = self._sent
        request = self._requests[number % len(self._requests)]
        try:
            connection = self._kept() or await Connection.open(self._spec.port)
            answer = await connection.ask(request, keep=number % _KEEP_EVERY == 0)
        except OSError:
            self.record.add(started, _FAILED)
            await asyncio.sleep(_PAUSE_S)
            return
        except asyncio.CancelledError:
            self.record.add(started, _FAILED)
            raise
        self.record.add(started, *answer)
        if connection.is_open:
            self._idle.append(connection)

    def _kept(self) -> Connection | None:
        """The latest that is idle; servers close those that were idle for long."""
        while self._idle:
            connection = self._idle.pop()
            if connection.is_open:
                return connection
        return None

    def _figures(self) -> dict[str, Any]:
        """What the window tells.

        Closed loop: an answer counts for the part of its time that lies within it (counted whole,
        a batch that ends just outside would be lost); latencies are of those that ended within it.
        Open loop: answers that ended within it; latencies are of the requests that were due within
        it, whenever they were answered.
        """
        requests = self.record.requests
        ended = [r for r in requests if self._begin <= r[1] < self._end]
        due = [r for r in requests if self._begin <= r[0] < self._end]
        counted = due if self._spec.rate else ended
        times = [(end - start) * 1e3 for start, end, status in counted if status == _OK]
        shares = [self._share(*r) for r in (ended if self._spec.rate else requests)]
        answered = sum(shares)
        return {
            "answered": answered,
            "rate": answered / self._spec.seconds,
            "statuses": dict(Counter(str(status) for *_, status in counted)),
            "latency_ms": {f"p{p}": percentile(times, p) for p in _PERCENTS}
            | {"max": max(times, default=0.0), "mean": sum(times) / max(1, len(times))},
            "stages_ms": _stages(self.record.bodies),
        }

    def _share(self, started: float, ended: float, status: int) -> float:
        """How much of a request is an answer within the window."""
        if status != _OK:
            return 0.0
        if self._spec.rate:
            return 1.0
        within = min(ended, self._end) - max(started, self._begin)
        return max(0.0, within) / max(ended - started, 1e-9)


def arrivals(spec: Spec) -> Iterator[float]:
    """Random seconds since the start, but as many as the rate says before, in and after the window.

    A Poisson process whose numbers of arrivals are given. Left to chance, ten seconds of ten
    arrivals each differ by a tenth in their load, and by far more in their percentiles.
    """
    rng = random.Random(spec.seed)  # noqa: S311 - not for secrets
    rate, begin = spec.rate or 1.0, 0.0
    for seconds in chain([spec.warm_s], repeat(spec.seconds)):
        yield from sorted(
            begin + rng.random() * seconds for _ in range(max(1, round(rate * seconds)))
        )
        begin += seconds


def _request(spec: Spec, body: bytes) -> bytes:
    head = (
        f"POST {spec.path} HTTP/1.1\r\nHost: 127.0.0.1:{spec.port}\r\n"
        f"Content-Type: image/jpeg\r\nContent-Length: {len(body)}\r\n\r\n"
    )
    return head.encode() + body


def _stages(bodies: Sequence[bytes]) -> dict[str, float]:
    """The mean of each of camserve's own timings, from the answers that were kept."""
    found = [json.loads(match[1]) for body in bodies if (match := _TIMINGS.search(body))]
    names = {name: None for timings in found for name in timings}
    return {name: sum(t.get(name) or 0.0 for t in found) / len(found) for name in names}


async def _sleep_until(moment: float) -> None:
    await asyncio.sleep(max(0.0, moment - time.perf_counter()))


def _say(word: str) -> None:
    print(word, flush=True)


def main() -> None:
    """Read a specification, measure, print."""
    import uvloop

    spec = Spec(**json.load(sys.stdin))
    gc.disable()

    async def measure() -> dict[str, Any]:
        return await Load(spec, _say).run()

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        _say(json.dumps(runner.run(measure())))


if __name__ == "__main__":
    main()
