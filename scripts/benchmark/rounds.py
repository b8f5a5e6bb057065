"""Rounds: in each, every server in turn, alone on the machine; the order turns with the rounds."""

import json
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

from app.engine.environment import environment
from benchmark.agreement import TOLERANCE, difference, disagreement, overlay, predictions
from benchmark.cells import Cell, base_of
from benchmark.contenders import CONTENDERS, Contender
from benchmark.measure import measure, spec_of
from benchmark.pictures import make_pictures
from benchmark.places import ROOT, WORK
from benchmark.servers import Server, ServerFailed, serving

_PICTURES = WORK / "pictures"
_REST_S = 1.0  # between servers
_ENGINE_LIMIT_S = 600
ENGINE_S = 25  # a model without HTTP, in each round
_OK = 200
_OTHER_LAYER = ("vit_b_16",)  # explained at another layer than camserve's own


@dataclass(frozen=True, slots=True)
class Plan:
    """What to measure."""

    contenders: Sequence[str]
    models: Sequence[str]
    cells: Sequence[Cell]
    rounds: int
    seconds: float

    def starts(self, number: int) -> Iterator[tuple[str, Contender, list[Cell]]]:
        """Each start of a server in a round: the model, the server, and its cells."""
        turn = number % max(1, len(self.contenders))
        for model in self.models:
            for name in [*self.contenders[turn:], *self.contenders[:turn]]:
                for group in _groups(CONTENDERS[name], self.cells):
                    yield model, CONTENDERS[name], group


def _groups(contender: Contender, cells: Sequence[Cell]) -> list[list[Cell]]:
    answered = [cell for cell in cells if cell.what in contender.paths]
    if contender.serves_both:
        return [answered] if answered else []
    whats = dict.fromkeys(cell.what for cell in answered)
    return [[cell for cell in answered if cell.what == what] for what in whats]


class Results:
    """The figures so far; those that could not be had, with the reason."""

    def __init__(self) -> None:
        self.rows: list[dict[str, Any]] = []
        self.missing: dict[str, str] = {}
        self.engine: list[dict[str, dict[str, float]]] = []
        self._answers: dict[tuple[str, str], bytes] = {}

    def leave_out(self, contender: str, model: str, why: str) -> None:
        print(f"  left out: {contender}, {model}: {why}", flush=True)
        self.missing[f"{contender}, {model}"] = why

    def is_missing(self, contender: str, model: str) -> bool:
        return f"{contender}, {model}" in self.missing

    def check(self, server: Server, model: str, what: str, picture: bytes) -> str:
        """What is wrong with an answer; camserve's own is what the others' are compared with."""
        status, body = server.post(what, picture)
        if status != _OK:
            return f"{what}: status {status}"
        ours = self._answers.setdefault((model, what), body)
        # Halved precision is held to the top class alone: that is what it promises.
        halved = server.contender.name.endswith("bf16")
        problem = disagreement(predictions(ours), predictions(body), 1.0 if halved else TOLERANCE)
        if problem or what != "explain":
            return problem
        comparable = not halved and model not in _OTHER_LAYER
        found = overlay(body)  # whoever was asked for one must have one
        return difference(overlay(ours), found) if comparable else ""


def run(plan: Plan, results: Results, keep: Callable[[], object]) -> None:
    """Measure everything; a server that fails is left out, and the rest goes on.

    Args:
        plan: what.
        results: are filled.
        keep: is called whenever there is more of them.
    """
    for number in range(plan.rounds):
        results.engine.append(engine(plan.models))
        _run_round(plan, results, number, keep)


def _run_round(plan: Plan, results: Results, number: int, keep: Callable[[], object]) -> None:
    for model, contender, cells in plan.starts(number):
        if results.is_missing(contender.name, model):
            continue
        print(f"round {number + 1}/{plan.rounds}: {contender.title}, {model}", flush=True)
        try:
            _measure_server(plan, results, contender, model, cells, number)
        except (ServerFailed, OSError, KeyError, ValueError) as exc:
            results.leave_out(contender.name, model, str(exc))
        keep()
        time.sleep(_REST_S)


def _measure_server(
    plan: Plan, results: Results, contender: Contender, model: str, cells: Sequence[Cell], n: int
) -> None:
    picture = make_pictures(_PICTURES, "0.24")[0].read_bytes()
    with serving(contender, model, cells[0].what, picture) as server:
        for what in dict.fromkeys(cell.what for cell in cells):
            if problem := results.check(server, model, what, picture):
                results.leave_out(contender.name, model, problem)
                return
        rates: dict[Cell, float] = {}
        for cell in cells:
            figures = measure_cell(server, cell, plan.seconds, rates, n)
            rates[cell] = figures["rate"]
            place = {"contender": contender.name, "model": model, "round": n, "cell": cell.key}
            results.rows.append({**place, "started_s": server.started_s, **figures})
            print(f"  {cell.key:34} {figures['rate']:8.2f}/s"
                  f"  p50 {figures['latency_ms']['p50']:7.0f} ms"
                  f"  others {figures['others_s']:.1f} s"
                  f"  ended {figures['ended']}", flush=True)  # fmt: skip


def measure_cell(
    server: Server, cell: Cell, seconds: float, rates: dict[Cell, float], number: int = 0
) -> dict[str, Any]:
    """One cell of a server that runs, in a round of that number: each has its own arrivals."""
    pictures = make_pictures(_PICTURES, cell.picture)
    path = server.contender.paths[cell.what]
    spec = spec_of(server.port, path, pictures, seconds)
    if cell.percent is None:
        return measure(server, replace(spec, clients=cell.clients))
    rate = max(0.1, rates[base_of(cell)] * cell.percent / 100)
    return {"offered": rate} | measure(
        server, replace(spec, rate=rate, warm_s=seconds / 2, seed=number)
    )


def engine(models: Sequence[str]) -> dict[str, dict[str, float]]:
    """Each model's rates without HTTP, each in a process of its own."""
    found = {}
    for model in models:
        print(f"engine: {model}", flush=True)
        done = subprocess.run(
            [sys.executable, "-m", "benchmark.engine", model],
            stdout=subprocess.PIPE, text=True, check=True, cwd=ROOT, timeout=_ENGINE_LIMIT_S,
            env={**environment("worker"), "PYTHONPATH": f"{ROOT}:{ROOT / 'scripts'}"},
        )  # fmt: skip
        found[model] = json.loads(done.stdout)
    return found
