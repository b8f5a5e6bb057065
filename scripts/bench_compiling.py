"""Does anybody notice that a trunk is being compiled, and that its programs take over?

Run as: .venv/bin/python scripts/bench_compiling.py [--model mobilenet_v3_small] [--runs 3] [--kept]

The same open load, half of what the server can do, on two servers in turns: one that compiles
nothing, and one that has just started with an empty cache. Of the latter three parts are told
apart: while it compiles, the two seconds until the programs are announced, in which they are loaded
and checked, and what follows. With ``--kept`` it is one client, and programs of an earlier start:
what starting with them costs. Pictures and weights are the benchmark's own; scripts/bench makes
them.
"""

import argparse
import asyncio
import json
import math
import statistics
import sys
import tempfile
import time
from collections.abc import Coroutine, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import uvloop

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT / "scripts"))

from benchmark.connection import Connection  # noqa: E402 - from a checkout
from benchmark.contenders import CONTENDERS  # noqa: E402
from benchmark.generator import Load, Spec  # noqa: E402
from benchmark.pictures import make_pictures  # noqa: E402
from benchmark.places import WORK  # noqa: E402
from benchmark.servers import Server, serving  # noqa: E402
from benchmark.statistics import percentile  # noqa: E402

WHAT = "explain"
SHARE = 0.5  # of the most that the server can do
SWITCH_S = 2.0
AFTER_S = 8.0
LOOK_S = 0.1
LONGEST_S = 600.0
LOADING_S, KEPT_S = 1.0, 6.0

T = TypeVar("T")
Latencies = list[tuple[float, float]]  # when it was due, milliseconds


@dataclass(frozen=True, slots=True)
class Compiling:
    """Latencies of a server that compiles, in its three parts, and how long the first one took."""

    during: Latencies
    switch: Latencies
    after: Latencies
    seconds: float


def main() -> None:
    """Measure in turns, and print the medians."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=_Verbatim)
    parser.add_argument("--model", default="mobilenet_v3_small")
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument(
        "--seconds", type=float, default=40, help="of the server that compiles nothing"
    )
    parser.add_argument("--kept", action="store_true", help="load what was compiled before")
    options = parser.parse_args()
    if options.kept:
        _load_kept(options.model, options.runs)
        return
    normals, compilings = [], []
    rate = None
    for _ in range(options.runs):
        with _server(options.model, {"APP_COMPILE": "off"}) as server:
            rate = rate or SHARE * _capacity(server)
            normals.append(_run(_normal(server, rate, options.seconds)))
        with (
            tempfile.TemporaryDirectory() as cache,
            _server(options.model, {"APP_COMPILE": "on", "TORCH_HOME": cache}) as server,
        ):
            compilings.append(_run(_compiling(server, options.model, rate)))
        _print(rate, normals[-1:], compilings[-1:])
    print("medians of all runs:")
    _print(rate or 0.0, normals, compilings)


_Verbatim = argparse.RawDescriptionHelpFormatter


def _server(model: str, environment: dict[str, str]) -> AbstractContextManager[Server]:
    picture = _pictures()[0].read_bytes()
    return serving(CONTENDERS["camserve"], model, WHAT, picture, environment, settled=False)


def _pictures() -> list[Path]:
    return make_pictures(WORK / "pictures", "0.24")


def _spec(server: Server, seconds: float, **how: float) -> Spec:
    path = server.contender.paths[WHAT]
    return Spec(server.port, path, [str(p) for p in _pictures()], seconds, **how)  # type: ignore[arg-type]


def _load_kept(model: str, runs: int) -> None:
    """One client from the start on, of servers that load kept programs and of others."""
    found: dict[str, list[Latencies]] = {"off": [], "on": []}
    with tempfile.TemporaryDirectory() as cache:
        with _server(model, {"APP_COMPILE": "on", "TORCH_HOME": cache}) as server:
            _run(_compiled(server, model))
        for _ in range(runs):
            for compiles, starts in found.items():
                with _server(model, {"APP_COMPILE": compiles, "TORCH_HOME": cache}) as server:
                    starts.append(_run(_alone(server)))
    for compiles, starts in found.items():
        loading = [[r for r in start if r[0] < start[0][0] + LOADING_S] for start in starts]
        later = [[r for r in start if r[0] >= start[0][0] + LOADING_S] for start in starts]
        for name, parts in (("first second", loading), ("later", later)):
            longest = statistics.median(max(ms for _, ms in part) for part in parts)
            print(f"  compile {compiles:3}  {name:12} p50 {_median(parts, 50):6.1f}"
                  f"  longest of a start {longest:6.1f} ms")  # fmt: skip


async def _compiled(server: Server, model: str) -> None:
    while (await _state(server, model))["state"] == "running":  # noqa: ASYNC110 - asked by HTTP
        await asyncio.sleep(LOOK_S)


async def _alone(server: Server) -> Latencies:
    load = Load(_spec(server, KEPT_S, clients=1, warm_s=0), lambda _: None)
    await load.run()
    return _latencies(load)


def _run(work: Coroutine[Any, Any, T]) -> T:
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        return runner.run(work)


def _capacity(server: Server) -> float:
    load = Load(_spec(server, 5, clients=8), lambda _: None)
    return float(_run(load.run())["rate"])


async def _normal(server: Server, rate: float, seconds: float) -> Latencies:
    load = Load(_spec(server, seconds, rate=rate), lambda _: None)
    await load.run()
    return _latencies(load)


async def _compiling(server: Server, model: str, rate: float) -> Compiling:
    began = time.perf_counter()
    load = Load(_spec(server, LONGEST_S, rate=rate, warm_s=0), lambda _: None)
    working = asyncio.create_task(load.run())
    while (state := await _state(server, model))["state"] == "running":  # noqa: ASYNC110 - asked by HTTP
        await asyncio.sleep(LOOK_S)
    switched = time.perf_counter()
    if state["state"] == "failed":
        raise SystemExit(f"{model} is not compiled: {state}")
    print("  ", state["state"], state["detail"])
    await asyncio.sleep(AFTER_S)
    working.cancel()
    await asyncio.wait([working])
    end = switched + AFTER_S - 1
    found = _latencies(load, end)
    return Compiling(
        [r for r in found if r[0] < switched - SWITCH_S],
        [r for r in found if switched - SWITCH_S <= r[0] < switched + LOOK_S],
        [r for r in found if switched + LOOK_S <= r[0]],
        switched - began,
    )


async def _state(server: Server, model: str) -> dict[str, str]:
    connection = await Connection.open(server.port)
    status, body = await connection.ask(
        f"GET /api/v1/models/{model} HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n".encode(), keep=True
    )
    connection.close()
    assert status == 200, status  # noqa: S101, PLR2004
    found: dict[str, str] = json.loads(body)["compile"]
    return found


def _latencies(load: Load, until: float = math.inf) -> Latencies:
    """Of all that were due until then: later ones may have been broken off."""
    due = [request for request in load.record.requests if request[0] < until]
    failed = [status for *_, status in due if status != 200]  # noqa: PLR2004
    if failed:
        raise SystemExit(f"{len(failed)} were not answered: {set(failed)}")
    return [(start, (end - start) * 1e3) for start, end, _ in due]


def _print(rate: float, normals: Sequence[Latencies], compilings: Sequence[Compiling]) -> None:
    print(f"  {rate:.0f} pictures a second, compiled in"
          f" {statistics.median(c.seconds for c in compilings):.0f} s")  # fmt: skip
    parts = {
        "compiles nothing": normals,
        "while it compiles": [c.during for c in compilings],
        "switch": [c.switch for c in compilings],
        "afterwards": [c.after for c in compilings],
    }
    for name, runs in parts.items():
        longest = statistics.median(map(_longest, runs))
        print(f"  {name:18} p50 {_median(runs, 50):6.1f}  p99 {_median(runs, 99):6.1f}"
              f"  longest of two seconds {longest:6.1f} ms")  # fmt: skip


def _median(runs: Sequence[Latencies], percent: int) -> float:
    return statistics.median(percentile([ms for _, ms in run], percent) for run in runs)


def _longest(run: Latencies) -> float:
    """The median over stretches as long as the switch: what is usual there."""
    longest: dict[int, float] = {}
    for due, ms in run:
        stretch = int((due - run[0][0]) / (SWITCH_S + LOOK_S))
        longest[stretch] = max(longest.get(stretch, 0.0), ms)
    return statistics.median(longest.values())


if __name__ == "__main__":
    main()
