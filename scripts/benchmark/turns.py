"""Two servers that run at once and are loaded in turns: what drifts on a machine hits both alike.

camserve is compared with a peer, or with another checkout of this repository: what a change does to
speed. An open loop offers both the same rate, a part of what the other one has just reached.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from benchmark.cells import Cell
from benchmark.contenders import CONTENDERS, Contender
from benchmark.pictures import make_pictures
from benchmark.places import WORK
from benchmark.report import table
from benchmark.rounds import Results, measure_cell
from benchmark.servers import Server, ServerFailed, serving
from benchmark.statistics import Spread, median

_PICTURES = WORK / "pictures"


@dataclass(frozen=True, slots=True)
class Plan:
    """What to measure: ``cells`` of ``models`` on ``other`` and on camserve as it is here."""

    other: str
    models: Sequence[str]
    cells: Sequence[Cell]
    rounds: int
    seconds: float


def is_known(word: str) -> bool:
    """Whether it names a server or a folder with a checkout."""
    return word in CONTENDERS or (Path(word) / "app" / "main.py").is_file()


def contender(word: str) -> Contender:
    """A server by its name, or camserve as it is in another folder."""
    if word in CONTENDERS:
        return CONTENDERS[word]
    own, folder = CONTENDERS["camserve"], Path(word).resolve()
    return replace(
        own, name=f"camserve-{folder.name}", command=("env", "-C", str(folder), *own.command)
    )


def measured(plan: Plan) -> Iterator[list[dict[str, Any]]]:
    """Both servers' figures of a cell, the other's first, for each model and round.

    Raises:
        ServerFailed: one cannot be had, or they answer differently.
    """
    for model in plan.models:
        for what in dict.fromkeys(cell.what for cell in plan.cells):
            yield from _measured(plan, model, [c for c in plan.cells if c.what == what])


def _measured(plan: Plan, model: str, cells: Sequence[Cell]) -> Iterator[list[dict[str, Any]]]:
    """Cells of one kind of request: there are servers that are started for one."""
    what, picture = cells[0].what, make_pictures(_PICTURES, "0.24")[0].read_bytes()
    with ExitStack() as stack:
        pair = [
            stack.enter_context(serving(contender(word), model, what, picture))
            for word in (plan.other, "camserve")
        ]
        _check(pair, model, what, picture)
        for number in range(plan.rounds):
            rates: dict[Cell, float] = {}  # of the other, for both
            for cell in cells:
                found = _in_turn(pair, cell, plan.seconds, rates, number)
                if cell.percent is None:
                    rates[cell] = found[0]["rate"]
                place = {"model": model, "cell": cell.key, "round": number}
                yield [{**place, "server": n, **figures} for n, figures in enumerate(found)]


def _check(pair: Sequence[Server], model: str, what: str, picture: bytes) -> None:
    results = Results()
    for server in reversed(pair):  # camserve's own answer is what the other's is compared with
        if problem := results.check(server, model, what, picture):
            raise ServerFailed(f"{server.contender.title}: {problem}")


def _in_turn(
    pair: Sequence[Server],
    cell: Cell,
    seconds: float,
    rates: dict[Cell, float],
    number: int,
) -> list[dict[str, Any]]:
    order = reversed(range(2)) if number % 2 else range(2)
    found = {n: measure_cell(pair[n], cell, seconds, rates, number) for n in order}
    return [found[0], found[1]]


def as_markdown(results: Mapping[str, Any]) -> str:
    """Medians of both servers, and of the ratios of each round."""
    rows: dict[tuple[str, str], dict[int, list[dict[str, Any]]]] = {}
    for row in results["rows"]:
        servers = rows.setdefault((row["model"], row["cell"]), {0: [], 1: []})
        servers[row["server"]].append(row)
    lines = [[model, cell, *_columns(found[0], found[1])] for (model, cell), found in rows.items()]
    head = ["model", "cell", "answers/s", "ratio", "p50 ms", "ratio", "p99 ms", "ratio", "core-ms"]
    machine, settings = results["machine"], results["settings"]
    told = (
        f"{machine['processor']}, {machine['cores']} cores; torch {machine['torch']};"
        f" {machine['when']}. `{results['command']}`: {settings['rounds']} rounds of"
        f" {settings['seconds']:g} s a cell, both servers at once, loaded in turns. Medians; a"
        " ratio is of a round's two figures, in brackets the extremes. How it is measured:"
        " [README](README.md)."
    )
    return "\n\n".join([f"# {results['name']}", told, table(head, lines)]) + "\n"


def _columns(first: Sequence[dict[str, Any]], second: Sequence[dict[str, Any]]) -> list[str]:
    rates = _pair([r["rate"] for r in first], [r["rate"] for r in second])
    p50 = _pair([r["latency_ms"]["p50"] for r in first], [r["latency_ms"]["p50"] for r in second])
    p99 = _pair([r["latency_ms"]["p99"] for r in first], [r["latency_ms"]["p99"] for r in second])
    core = [median([sum(r["core_ms"].values()) for r in side]) for side in (first, second)]
    return [*rates, *p50, *p99, f"{core[0]:.1f}, {core[1]:.1f}"]


def _pair(first: Sequence[float], second: Sequence[float]) -> list[str]:
    ratios = Spread.of([b / a for a, b in zip(first, second, strict=True) if a])
    told = f"{median(first):.3g}, {median(second):.3g}"
    return [told, f"{ratios.median:.2f} ({ratios.low:.2f} to {ratios.high:.2f})"]
