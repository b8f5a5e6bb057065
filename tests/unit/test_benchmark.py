"""scripts/bench counts honestly: its load generator, and the arithmetic of its tables."""

import asyncio
import base64
import itertools
import json
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.pictures import encode, make_picture

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT / "scripts"))

from benchmark import cli, environments, generator, gpu, processes, turns  # noqa: E402 - scripts/
from benchmark.agreement import difference, disagreement, overlay  # noqa: E402
from benchmark.cells import Cell, cells  # noqa: E402
from benchmark.connection import Connection  # noqa: E402
from benchmark.generator import Load, Spec, arrivals  # noqa: E402
from benchmark.measure import Clocks, usage  # noqa: E402
from benchmark.plot import as_plot  # noqa: E402
from benchmark.report import as_markdown, lines_of  # noqa: E402
from benchmark.servers import wait_until_idle  # noqa: E402
from benchmark.statistics import Spread, ceiling, median, percentile, ratio  # noqa: E402

Answer = Callable[[int, asyncio.StreamWriter], Awaitable[None]]


class TinyServer:
    """Answers POSTs over connections that are kept; counts them."""

    def __init__(self, answer: Answer) -> None:
        self.requests: list[bytes] = []
        self.connections = 0
        self.port = 0
        self._answer = answer
        self._tasks: list[asyncio.Task[None] | None] = []

    @asynccontextmanager
    async def running(self) -> AsyncIterator["TinyServer"]:
        server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        self.port = server.sockets[0].getsockname()[1]
        try:
            yield self
        finally:
            server.close()
            await asyncio.gather(*filter(None, self._tasks))

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        self._tasks.append(asyncio.current_task())
        try:
            while True:
                head = await reader.readuntil(b"\r\n\r\n")
                length = int(head.lower().partition(b"content-length:")[2].split(b"\r\n")[0])
                self.requests.append(await reader.readexactly(length))
                await self._answer(len(self.requests), writer)
                await writer.drain()
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            writer.close()


def plain(body: bytes, status: int = 200, after_s: float = 0.0) -> Answer:
    async def answer(_: int, writer: asyncio.StreamWriter) -> None:
        await asyncio.sleep(after_s)
        head = f"HTTP/1.1 {status} X\r\nContent-Length: {len(body)}\r\n\r\n"
        writer.write(head.encode() + body)

    return answer


def in_turn(seconds: float) -> Answer:
    """One after the other, as they came."""
    turn = asyncio.Lock()

    async def answer(number: int, writer: asyncio.StreamWriter) -> None:
        async with turn:
            await plain(b"{}", after_s=seconds)(number, writer)

    return answer


async def chunked(_: int, writer: asyncio.StreamWriter) -> None:
    """An answer in chunks, sent so that boundaries lie in the middle of everything."""
    head = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
    whole = head + b"5\r\nhello\r\n6;x=y\r\n world\r\n0\r\n\r\n"
    for start in range(0, len(whole), 7):
        writer.write(whole[start : start + 7])
        await writer.drain()
        await asyncio.sleep(0.001)


def load(answer: Answer, picture: Path, **spec: Any) -> tuple[dict[str, Any], TinyServer]:
    """The generator's figures of a tiny server, which runs beside it."""
    said: list[str] = []
    server = TinyServer(answer)

    async def run() -> dict[str, Any]:
        async with server.running():
            full = {"warm_s": 0.1, "seconds": 0.5, **spec}
            measured = Load(
                Spec(server.port, "/x", [str(picture)], **full),
                said.append,
            )
            return await measured.run()

    figures = asyncio.run(run())
    assert said == ["begin", "end"]
    return figures, server


@pytest.fixture
def picture(tmp_path: Path) -> Path:
    file = tmp_path / "picture.jpg"
    file.write_bytes(b"not read by this server")
    return file


def test_a_closed_loop_counts_what_the_server_answered_over_kept_connections(picture: Path) -> None:
    figures, server = load(plain(b"{}", after_s=0.02), picture, clients=3)

    assert set(server.requests) == {picture.read_bytes()}
    assert server.connections == 3
    assert 0 < figures["answered"] <= len(server.requests)
    assert figures["rate"] == figures["answered"] / 0.5
    assert set(figures["statuses"]) == {"200"}
    assert abs(figures["statuses"]["200"] - figures["answered"]) <= 3  # those at the edges


def test_latencies_are_the_servers_own(picture: Path) -> None:
    figures, _ = load(plain(b"{}", after_s=0.05), picture, clients=2)

    assert 50 <= figures["latency_ms"]["p50"] < 200  # a busy machine may be late, never early
    assert figures["answered"] <= 2 * 0.5 / 0.05 + 1e-6


def test_a_batch_that_ends_just_outside_the_window_counts_for_its_part(picture: Path) -> None:
    """Two clients that wait 0.4 s: half a second holds 2.5 answers, whatever ends within it."""
    figures, _ = load(plain(b"{}", after_s=0.4), picture, clients=2)

    assert 2.2 < figures["answered"] <= 2.5


def test_clients_that_wait_for_longer_than_the_warm_up_are_counted_once_each_was_answered(
    picture: Path,
) -> None:
    """Who is answered first has not waited for a whole round, and would count for too much."""
    figures, _ = load(in_turn(0.02), picture, clients=20, warm_s=0.02, seconds=0.3)

    assert figures["rate"] <= 1 / 0.02 * 1.01
    assert figures["latency_ms"]["p50"] >= 20 * 20 * 0.95


def test_what_was_sent_within_the_window_is_answered_under_load(picture: Path) -> None:
    figures, server = load(in_turn(0.02), picture, clients=10, seconds=0.2)

    assert (
        len(server.requests) >= figures["answered"] + 3 * 9
    )  # before, at its end, and behind that


def test_a_client_that_is_never_answered_does_not_hold_up_the_window(
    picture: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(generator, "_WARM_LIMIT_S", 0.1)
    monkeypatch.setattr(generator, "_DRAIN_S", 0.1)

    async def first_never(number: int, writer: asyncio.StreamWriter) -> None:
        if number > 1:
            await plain(b"{}", after_s=0.01)(number, writer)

    figures, _ = load(first_never, picture, clients=2)

    assert figures["answered"] > 0
    assert set(figures["statuses"]) == {"200"}


def test_an_open_loop_sends_as_many_as_its_rate_says_at_moments_of_its_seed() -> None:
    def moments(seed: int) -> list[float]:
        spec = Spec(0, "/", [], seconds=10, warm_s=5, rate=8, seed=seed)
        return list(itertools.islice(arrivals(spec), 200))

    found = moments(1)

    assert found == sorted(found) == moments(1) != moments(2)
    assert [sum(a <= m < b for m in found) for a, b in ((0, 5), (5, 15), (15, 25))] == [40, 80, 80]


def test_other_statuses_are_counted_and_are_no_answers(picture: Path) -> None:
    async def every_third_fails(number: int, writer: asyncio.StreamWriter) -> None:
        await plain(b"{}", 503 if number % 3 == 0 else 200, after_s=0.005)(number, writer)

    figures, _ = load(every_third_fails, picture, clients=1)

    failed, answered = figures["statuses"]["503"], figures["statuses"]["200"]
    assert abs(figures["answered"] - answered) <= 1
    assert abs(answered - 2 * failed) <= 2


def test_a_server_that_hangs_up_is_counted_as_a_failure(picture: Path) -> None:
    async def hang_up(_: int, writer: asyncio.StreamWriter) -> None:
        writer.close()

    figures, _ = load(hang_up, picture, clients=1)

    assert figures["answered"] == 0
    assert set(figures["statuses"]) == {"0"}


def test_an_open_loop_counts_from_when_a_request_was_due(picture: Path) -> None:
    """One at a time, 40 ms each, at twice that rate: the queue's wait is latency, too."""
    figures, _ = load(in_turn(0.04), picture, rate=50.0, seconds=0.8)

    assert figures["latency_ms"]["max"] > 200
    assert figures["rate"] <= 25.1
    assert figures["statuses"]["200"] > figures["answered"]  # answered after the window


def test_the_stages_are_read_from_the_answers(picture: Path) -> None:
    body = json.dumps({"timings_ms": {"decode": 2.0, "queue": None}, "more": {}}).encode()

    figures, _ = load(plain(body, after_s=0.002), picture, clients=2)

    assert figures["stages_ms"] == {"decode": 2.0, "queue": 0.0}


def test_chunked_answers_end_where_they_end(picture: Path) -> None:
    figures, server = load(chunked, picture, clients=2)

    assert figures["answered"] > 0
    assert set(figures["statuses"]) == {"200"}
    assert server.connections == 2


def test_a_body_that_is_kept_is_what_was_sent() -> None:
    async def ask(answer: Answer) -> tuple[int, bytes]:
        async with TinyServer(answer).running() as server:
            connection = await Connection.open(server.port)
            request = b"POST / HTTP/1.1\r\nContent-Length: 1\r\n\r\nx"
            await connection.ask(request)
            answered = await connection.ask(request, keep=True)
            connection.close()
            return answered

    assert asyncio.run(ask(chunked)) == (200, b"hello world")
    assert asyncio.run(ask(plain(b"whole", 404))) == (404, b"whole")


def test_medians_percentiles_and_ratios_are_those_of_the_textbook() -> None:
    assert median([3, 1, 2]) == 2
    assert median([4, 1, 2, 3]) == 2.5
    assert Spread.of([5.0, 1.0, 2.0]) == Spread(2.0, 1.0, 5.0)
    hundred = [float(n) for n in range(100, 0, -1)]
    assert [percentile(hundred, p) for p in (50, 95, 99, 100)] == [50, 95, 99, 100]
    assert percentile([7.0], 99) == 7.0
    assert percentile([], 50) == 0.0
    assert ratio(3, 2) == 1.5
    assert ratio(3, 0) is None


def test_the_ceiling_is_all_cores_doing_nothing_else() -> None:
    assert ceiling({"http": 1.0, "worker": 3.0}, requests=100, cores=2) == 50.0

    before = Clocks({1: 10.0}, machine=100.0)
    after = Clocks({1: 11.0}, machine=102.0)
    used = usage(before, after, {"answered": 100, "generator_s": 0.25})
    assert list(used["core_ms"].values()) == [10.0]
    assert used["others_s"] == 0.75
    assert used["ended"] == 0
    two = Clocks({1: 10.0, 2: 5.0}, machine=100.0)
    assert usage(two, after, {"answered": 100, "generator_s": 0.25})["ended"] == 1


def test_a_server_is_measured_once_its_last_process_has_started(tmp_path: Path) -> None:
    done = tmp_path / "done"
    importing = (
        "import pathlib, sys, time\n"
        "while time.process_time() < 1.5: pass\n"
        "pathlib.Path(sys.argv[1]).touch()\n"
        "sys.stdin.read()"
    )
    second = [sys.executable, "-c", importing, str(done)]
    first = f"import subprocess; subprocess.run({second!r})"
    server = subprocess.Popen([sys.executable, "-c", first], stdin=subprocess.PIPE)
    try:
        wait_until_idle(server.pid)
        assert done.exists()
    finally:
        server.communicate()


def test_cells_vary_one_thing_at_a_time_and_open_loops_follow_their_base() -> None:
    found = cells(["explain"], ["0.1", "0.24"], [1, 16], [50])

    assert found == [
        Cell("explain", "0.24", 16),  # the usual one first: plots show it
        Cell("explain", "0.1", 16),
        Cell("explain", "0.24", 1),
        Cell("explain", "0.24", 16, 50),
    ]


def test_answers_agree_by_top_class_and_scores() -> None:
    ours = [{"index": 1, "score": 0.5}, {"index": 2, "score": 0.3}]

    assert disagreement(ours, [{"index": 1, "score": 0.5004}, {"index": 3, "score": 0.3}]) == ""
    assert "top class" in disagreement(ours, [{"index": 2, "score": 0.5}])
    assert "0.4900" in disagreement(ours, [{"index": 1, "score": 0.49}])


def test_overlays_are_compared_as_pictures() -> None:
    encoded = base64.b64encode(encode(make_picture(), "PNG")).decode()
    ours = {"explanations": [{"overlay": {"base64": encoded}}]}

    found = [overlay(json.dumps(answer).encode()) for answer in (ours, {"overlay": encoded})]

    assert difference(*found) == ""
    assert "2.0 levels" in difference(found[0], found[1] + 2)
    assert "not (90, 120, 3)" in difference(found[0], found[1][:50])


def make_row(contender: str, rate: float, number: int, **more: Any) -> dict[str, Any]:
    return {
        "contender": contender, "model": "resnet50", "round": number, "rate": rate,
        "cell": "explain, 0.24 Mpx, 16 clients", "statuses": {"200": 60, "503": 1},
        "latency_ms": {"p50": 10.0 * number, "p95": 20.0, "p99": 30.0}, "ceiling": 2 * rate,
        "core_ms": {"http": 1.0, "worker": number}, "stages_ms": {"decode": 2.0},
        "peak_mb": {"http": 100.0}, "others_s": 0.0, **more,
    }  # fmt: skip


def make_results(rows: list[dict[str, Any]]) -> dict[str, Any]:
    machine = {
        "processor": "x", "cores": 2, "flags": [], "memory_gb": 1, "torch": "2", "python": "3",
        "when": "now",
    }  # fmt: skip
    return {
        "name": "test", "command": "scripts/bench", "machine": machine,
        "peers": {"fastapi_grad_cam": environments.describe("fastapi_grad_cam")},
        "settings": {"rounds": 3, "seconds": 5.0}, "rows": rows,
        "engine": [{"resnet50": {"torchvision forward": r}} for r in (10.0, 20.0, 90.0)],
        "missing": {"mosec_torchcam, resnet50": "why\nand a log"},
    }  # fmt: skip


def test_a_table_has_medians_of_rounds_and_ratios_to_camserve() -> None:
    rows = [make_row("camserve", rate, n) for n, rate in enumerate((30.0, 10.0, 20.0))]
    rows += [make_row("fastapi_grad_cam", rate, n) for n, rate in enumerate((4.0, 5.0, 9.0))]
    results = make_results(rows)

    text = as_markdown(results)

    assert "| camserve | 20 (10 to 30) | 1.00 x | 10 | 30 | 100% |" in text
    assert "| FastAPI + grad-cam | 5 (4 to 9) | 4.00 x | 10 | 30 | 25% |" in text
    assert "| 50% |" in text  # of the ceiling
    assert "2 (http 1, worker 1)" in text  # core-milliseconds
    assert "| FastAPI + grad-cam | grad-cam==" in text
    assert "| workers=" in text
    assert "Left out: mosec_torchcam, resnet50: why" in text
    assert "Disturbed" not in text
    assert [line.failed for line in lines_of(results)] == [3, 3]
    assert as_plot(lines_of(results)).height > 50


def test_stages_that_one_kind_of_request_has_not_are_told_of_the_others() -> None:
    drawn = {"decode": 2.0, "render": 3.0, "total": 5.0}
    rows = [
        make_row("camserve", 10.0, 0),
        make_row("camserve", 10.0, 0, cell="explain", stages_ms=drawn),
    ]

    assert "| camserve | explain | 2.0 | 3.0 | 5.0 |" in as_markdown(make_results(rows))


def test_a_busy_machine_is_told() -> None:
    results = make_results([make_row("camserve", 10.0, 0, others_s=1.0)])  # of 2 cores, 5 s

    assert "at most 10%" in as_markdown(results)


def test_a_server_whose_processes_end_meanwhile_is_named() -> None:
    rows = [make_row("camserve", 10.0, 0, ended=0), make_row("fastapi_grad_cam", 2.0, 0, ended=1)]

    text = as_markdown(make_results(rows))

    assert "measured: FastAPI + grad-cam, resnet50, explain, 0.24 Mpx, 16 clients." in text


def test_runs_of_parts_are_put_together(tmp_path: Path) -> None:
    for name, contender in (("a", "camserve"), ("b", "ray_torchcam")):
        content = make_results([make_row(contender, 10.0, 0)])
        (tmp_path / f"{name}.json").write_text(json.dumps(content))

    whole = cli.merged("whole", tmp_path, ["a", "b"])
    cli.write(tmp_path, whole)

    assert [row["contender"] for row in whole["rows"]] == ["camserve", "ray_torchcam"]
    assert "Ray Serve" in (tmp_path / "whole.md").read_text()
    assert (tmp_path / "whole.png").exists()


def test_flags_are_checked_and_quick_is_small(capsys: pytest.CaptureFixture[str]) -> None:
    quick = cli.parse(["--quick", "--peers", "camserve"])

    assert (quick.name, quick.clients, quick.open, quick.rounds) == ("quick", (16, 1), (), 1)
    assert cli.minutes(cli.plan_of(quick, ["camserve"])) < 3
    with pytest.raises(SystemExit):
        cli.parse(["--models", "resnet51"])
    assert "'resnet51'" in capsys.readouterr().err


def test_two_servers_in_turns_are_compared_round_by_round() -> None:
    # The machine drifts by more than they differ.
    rates = [(10.0, 11.0), (20.0, 24.0), (30.0, 39.0)]
    rows = [
        make_row("", r, n, server=k) for n, pair in enumerate(rates) for k, r in enumerate(pair)
    ]

    text = turns.as_markdown(make_results(rows))

    assert "| 20, 24 | 1.20 (1.10 to 1.30) |" in text
    assert "| 2.0, 2.0 |" in text  # core-milliseconds


def test_the_other_server_is_a_peer_or_another_checkout(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert turns.contender("ray_torchcam").title == "Ray Serve + torchcam"
    (tmp_path / "app").mkdir()
    (tmp_path / "app" / "main.py").touch()
    assert cli.parse(["--against", str(tmp_path)]).name == "against"
    other = turns.contender(str(tmp_path))
    assert other.command_for("resnet50", 8000)[:3] == ["env", "-C", str(tmp_path)]
    assert not other.is_peer
    with pytest.raises(SystemExit):
        cli.parse(["--against", "nowhere"])
    assert "'nowhere'" in capsys.readouterr().err


def test_a_process_is_ended_with_all_that_it_started() -> None:
    program = "(trap '' INT TERM; sleep 60; true) & sleep 60; true"
    with subprocess.Popen(["sh", "-c", program], start_new_session=True) as process:
        deadline = time.monotonic() + 10
        while len(family := processes.tree(process.pid)) < 4 and time.monotonic() < deadline:
            time.sleep(0.02)
        with processes.adopting_orphans():
            processes.end(process.pid, patience_s=0.3)

        assert len(family) == 4
        assert not any(Path(f"/proc/{pid}").exists() for pid in family)


def http_row(**keys: Any) -> dict[str, Any]:
    row = {
        "what": "explain", "http_processes": 4, "clients": 96, "seconds": 3.0, "rate": 1000.0,
        "latency_ms": {"p50": 90.0, "p99": 150.0}, "generator_s": 0.6,
        "core_ms": {"parent": 0.1, "http": 4.0, "worker": 0.3},
        "stages_ms": {"decode": 40.0, "queue": 2.0, "forward": 2.0, "backward": 1.0, "total": 85.0},
    }  # fmt: skip
    return row | keys


@pytest.mark.parametrize(
    ("keys", "engine_rate", "stage"),
    [
        ({}, 1050.0, "GPU (95%)"),
        ({"core_ms": {"http": 15.0, "worker": 0.3}}, 9000.0, "cores (97%)"),
        ({"generator_s": 2.85}, 9000.0, "load generator (95%)"),
        ({}, 9000.0, "Python of the http processes (1.0 cores each)"),
        ({"stages_ms": {}}, 9000.0, "Python of the http processes (1.0 cores each)"),
        (
            {"stages_ms": {"decode": 9.0, "queue": 50.0, "forward": 15.0, "total": 90.0}},
            9000.0,
            "Python of the worker (0.3 cores)",
        ),
    ],
)
def test_the_stage_that_is_full_is_the_limit(
    keys: dict[str, Any], engine_rate: float, stage: str
) -> None:
    assert gpu.limit(http_row(**keys), engine_rate, 16) == stage


def test_a_gpus_report_compares_the_engine_with_both_forwards() -> None:
    def figure(what: str, rate: float) -> dict[str, Any]:
        return {"precision": "bf16", "rows": 64, "what": what, "rate": rate}

    report = gpu.as_markdown(
        {
            "name": "gpu",
            "command": "scripts/bench --gpu",
            "machine": {
                "gpu": "A GPU, 580", "processor": "a processor", "cores": 16, "memory_gb": 128,
                "torch": "2.11", "python": "3.12", "when": "today",
            },
            "settings": {"precision": "bf16", "seconds": 3.0},
            "engine": [
                figure("own forward", 20000.0), figure("engine", 17000.0),
                figure("compiled forward", 16000.0),
            ],
            "http": [http_row()],
        }
    )  # fmt: skip
    assert "| bf16 | 64 | 16000 | 20000 | 17000 | 85% | 106% |" in report
    assert "| explain | 4 | 96 | 1000 | 90 | 150 |" in report
