"""A GPU, alone and behind HTTP: how fast it could be, and what keeps the service from that."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from app.engine.environment import environment
from benchmark import machine
from benchmark.contenders import CONTENDERS
from benchmark.measure import measure, spec_of
from benchmark.pictures import make_pictures
from benchmark.places import ROOT, WORK
from benchmark.report import by_role, number, percent, table
from benchmark.servers import serving

_PICTURE = "0.24"
_CLIENTS_EACH = 24  # clients for each http process: its cores always have something to do
_MODEL = "resnet50"
_LIMIT_S = 400
_BUSY = 0.9
_WORKER_STAGES = ("queue", "forward", "backward")


@dataclass(frozen=True, slots=True)
class Plan:
    """What to measure; ``http`` are numbers of http processes."""

    precision: str
    http: Sequence[int]
    whats: Sequence[str]
    seconds: float


def measured(name: str, command: str, plan: Plan) -> Iterator[dict[str, Any]]:
    """The content of a result file, more complete each time."""
    content: dict[str, Any] = {
        "name": name,
        "command": command,
        "machine": machine.describe() | {"gpu": _gpu()},
        "settings": {"seconds": plan.seconds, "precision": plan.precision},
        "engine": [],
        "http": [],
    }
    for figure in _engine():
        content["engine"].append(figure)
        print(f"  {figure}", flush=True)
        yield content
    for processes in plan.http:
        for row in _http(plan, processes):
            content["http"].append(row)
            print(f"  {_told(row)}", flush=True)
            yield content


def _gpu() -> str:
    """Its name, and its driver's version."""
    query = ["nvidia-smi", "--query-gpu=name,driver_version", "--format=csv,noheader"]
    found = subprocess.run(query, stdout=subprocess.PIPE, text=True, check=True)
    return found.stdout.strip().splitlines()[0]


def _engine() -> Iterator[dict[str, Any]]:
    """In a process of its own: an idle context would take memory, and the GPU's turns."""
    path = os.pathsep.join((str(ROOT), str(ROOT / "scripts"), os.environ.get("PYTHONPATH", "")))
    with subprocess.Popen(
        [sys.executable, "-m", "benchmark.gpu_engine", _MODEL],
        stdout=subprocess.PIPE, text=True, cwd=ROOT,
        env={**environment("worker"), "PYTHONPATH": path},
    ) as process:  # fmt: skip
        assert process.stdout is not None  # noqa: S101 - it is a pipe
        for line in process.stdout:
            yield json.loads(line)
    if process.returncode:
        raise RuntimeError(f"benchmark.gpu_engine ended with {process.returncode}")


def _http(plan: Plan, processes: int) -> Iterator[dict[str, Any]]:
    contender = CONTENDERS["camserve"]
    pictures = make_pictures(WORK / "pictures", _PICTURE)
    settings = {
        "APP_DEVICES": "cuda:0",
        "APP_HTTP_PROCESSES": str(processes),
        "APP_PRECISION": plan.precision,
        "APP_MAX_QUEUE": "1024",
    }
    with serving(contender, _MODEL, "predict", pictures[0].read_bytes(), settings) as server:
        for what in plan.whats:
            spec = spec_of(server.port, contender.paths[what], pictures, plan.seconds)
            figures = measure(server, replace(spec, clients=_CLIENTS_EACH * processes))
            yield {
                "what": what,
                "http_processes": processes,
                "clients": _CLIENTS_EACH * processes,
                "seconds": plan.seconds,
                **figures,
            }


def limit(row: Mapping[str, Any], engine_rate: float, cores: int) -> str:
    """The stage that is as good as full; else the Python of those with whom requests are most.

    The load generator has a core; the http processes share what there is. An http process's Python
    has a core, too, but Pillow and deflate go on beside it; so has the worker's, whose threads are
    awake also while they wait for the GPU.
    """
    busy = {role: each * row["rate"] / 1e3 for role, each in row["core_ms"].items()}
    generator = row["generator_s"] / row["seconds"]
    full = {
        "GPU": row["rate"] / engine_rate,
        "cores": (sum(busy.values()) + generator) / cores,
        "load generator": generator,
    }
    stage = max(full, key=full.__getitem__)
    if full[stage] >= _BUSY:
        return f"{stage} ({full[stage]:.0%})"
    stages = row["stages_ms"]
    if sum(stages.get(stage, 0.0) for stage in _WORKER_STAGES) > stages.get("total", 0.0) / 2:
        return f"Python of the worker ({busy.get('worker', 0.0):.1f} cores)"
    each = busy.get("http", 0.0) / row["http_processes"]
    return f"Python of the http processes ({each:.1f} cores each)"


def as_markdown(results: Mapping[str, Any]) -> str:
    """A whole report."""
    told, settings = results["machine"], results["settings"]
    head = (
        f"{told['gpu'].replace(', ', ', driver ')}; {told['processor']}, {told['cores']} cores,"
        f" {told['memory_gb']} GB; torch {told['torch']}, Python {told['python']}; {told['when']}."
        f" `{results['command']}`. How it is measured: [README](README.md)."
    )
    parts = [f"# {results['name']}", head, f"## {_MODEL} without HTTP, pictures a second"]
    parts.append(_engine_table(results["engine"]))
    if results["http"]:
        parts.append(f"## {_MODEL} over HTTP, {settings['precision']}, {_PICTURE} megapixels")
        parts.append(_http_table(results))
    return "\n\n".join(parts) + "\n"


def _engine_table(figures: Sequence[Mapping[str, Any]]) -> str:
    found = {(f["precision"], f["rows"], f["what"]): f["rate"] for f in figures}
    rows = []
    for precision, batch in dict.fromkeys((p, r) for p, r, _ in found):
        compiled, own, engine = (
            found.get((precision, batch, what))
            for what in ("compiled forward", "own forward", "engine")
        )
        rows.append(
            [precision, str(batch), number(compiled), number(own), number(engine),
             percent(engine / own if engine and own else None),
             percent(engine / compiled if engine and compiled else None)]
        )  # fmt: skip
    head = ["precision", "batch", "compiled forward", "camserve's forward",
            "camserve's engine, uint8 → scores and Grad-CAM", "of own forward",
            "of compiled forward"]  # fmt: skip
    return table(head, rows)


def _http_table(results: Mapping[str, Any]) -> str:
    cores, engine = results["machine"]["cores"], engine_rate(results)
    rows = [
        [row["what"], str(row["http_processes"]), str(row["clients"]), number(row["rate"]),
         number(row["latency_ms"]["p50"]), number(row["latency_ms"]["p99"]),
         by_role(row["core_ms"]), limit(row, engine, cores)]
        for row in results["http"]
    ]  # fmt: skip
    head = ["request", "http processes", "clients", "answers/s", "p50 ms", "p99 ms",
            "core-ms each", "limit"]  # fmt: skip
    return table(head, rows)


def engine_rate(results: Mapping[str, Any]) -> float:
    """The engine's best in the precision that was served."""
    precision = results["settings"]["precision"]
    rates = [
        f["rate"]
        for f in results["engine"]
        if f["what"] == "engine" and f["precision"] == precision
    ]
    return max(rates, default=float("inf"))


def _told(row: Mapping[str, Any]) -> str:
    return (
        f"{row['what']}, {row['http_processes']} http, {row['clients']} clients:"
        f" {row['rate']:.0f}/s, p50 {row['latency_ms']['p50']:.0f} ms, {row['statuses']},"
        f" core-ms {by_role(row['core_ms'])}, generator {row['generator_s'] / row['seconds']:.0%}"
    )
