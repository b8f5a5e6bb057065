"""The figures as Markdown."""

from collections.abc import Mapping, Sequence
from typing import Any

from benchmark.contenders import CONTENDERS
from benchmark.statistics import Spread, ratio
from benchmark.summary import Line, medians, summarise

_DISTURBED = 0.05  # of all cores


def lines_of(results: Mapping[str, Any]) -> list[Line]:
    """The summary of a result file."""
    return summarise(results["rows"], results["machine"]["cores"], results["settings"]["seconds"])


def as_markdown(results: Mapping[str, Any]) -> str:
    """A whole report: the machine, then for each model its tables."""
    lines = lines_of(results)
    engine = engine_medians(results)
    parts = [f"# {results['name']}", _machine(results), *_peers(results["peers"])]
    for model in dict.fromkeys([*engine, *(line.model for line in lines)]):
        own = [line for line in lines if line.model == model]
        parts += [f"## {model}", *_engine(engine.get(model, {}))]
        parts += _closed_tables(own, engine.get(model, {}))
        parts += _open_table(own) + _stages(own)
    parts += [
        f"Left out: {what}: {why.splitlines()[0]}" for what, why in results["missing"].items()
    ]
    parts += _disturbances(lines)
    parts += _endings(lines)
    return "\n\n".join(parts) + "\n"


def engine_medians(results: Mapping[str, Any]) -> dict[str, dict[str, float]]:
    """By model: pictures a second without HTTP, the median of the rounds."""
    models = dict.fromkeys(model for found in results["engine"] for model in found)
    return {
        model: medians([found[model] for found in results["engine"] if model in found])
        for model in models
    }


def _machine(results: Mapping[str, Any]) -> str:
    machine, settings = results["machine"], results["settings"]
    return (
        f"{machine['processor']}, {machine['cores']} cores ({', '.join(machine['flags'])}),"
        f" {machine['memory_gb']} GB; torch {machine['torch']}, Python {machine['python']};"
        f" {machine['when']}. `{results['command']}`: {settings['rounds']} rounds,"
        f" {settings['seconds']:g} s a cell; medians, in brackets the extremes of the rounds."
        " How it is measured: [README](README.md)."
    )


def _peers(peers: Mapping[str, Any]) -> list[str]:
    rows = [
        [title(name), ", ".join(peer["versions"]), peer["tuning"]] for name, peer in peers.items()
    ]
    return [table(["peer", "versions", "settings"], rows)] if rows else []


def _engine(rates: Mapping[str, float]) -> list[str]:
    told = ", ".join(f"{name} {rate:.1f}" for name, rate in rates.items())
    return [f"Without HTTP, pictures a second, eight at once or one: {told}."] if told else []


def _closed_tables(lines: Sequence[Line], engine: Mapping[str, float]) -> list[str]:
    closed = [line for line in lines if line.offered is None]
    parts = []
    for cell in dict.fromkeys(line.cell for line in closed):
        own = [line for line in closed if line.cell == cell]
        parts += [f"**{cell}**", closed_table(own, engine)]
    return parts


def closed_table(lines: Sequence[Line], engine: Mapping[str, float]) -> str:
    """The servers side by side in one cell."""
    ours = next((line.rate.median for line in lines if line.contender == "camserve"), None)
    rows = [
        [
            title(line.contender),
            f"{number(line.rate.median)} ({number(line.rate.low)} to {number(line.rate.high)})",
            times(ours and ratio(ours, line.rate.median)),
            spread_ms(line.latency_ms["p50"]),
            spread_ms(line.latency_ms["p99"]),
            percent(_of(line, engine.get("torchvision forward"))),
            percent(_of(line, engine.get("camserve forward"))),
            by_role(line.core_ms),
            percent(line.of_ceiling),
            by_role(line.peak_mb),
            str(line.failed),
        ]
        for line in lines
    ]
    head = ["server", "answers/s", "camserve is", "p50 ms", "p99 ms", "of torchvision's forward",
            "of camserve's forward", "core-ms each", "of ceiling", "peak MB", "failed"]  # fmt: skip
    return table(head, rows)


def _open_table(lines: Sequence[Line]) -> list[str]:
    rows = [
        [
            title(line.contender), line.cell, number(line.offered), number(line.rate.median),
            *(spread_ms(line.latency_ms[name]) for name in ("p50", "p95", "p99")),
            str(line.failed),
        ]
        for line in lines
        if line.offered is not None
    ]  # fmt: skip
    head = ["server", "cell", "offered/s", "answers/s", "p50 ms", "p95 ms", "p99 ms", "failed"]
    return ["**Open loop**: latency from when a request was due", table(head, rows)] if rows else []


def _stages(lines: Sequence[Line]) -> list[str]:
    own = [line for line in lines if line.stages_ms]
    if not own:
        return []
    names = max((list(line.stages_ms) for line in own), key=len)  # predict draws nothing
    rows = [
        [title(line.contender), line.cell, *(f"{line.stages_ms.get(n, 0):.1f}" for n in names)]
        for line in own
    ]
    return ["**Stages**, ms, as the answers tell them", table(["server", "cell", *names], rows)]


def _disturbances(lines: Sequence[Line]) -> list[str]:
    worst = max((line.others for line in lines), default=0.0)
    if worst < _DISTURBED:
        return []
    count = sum(line.others >= _DISTURBED for line in lines)
    told = (
        f"**Disturbed**: in {count} of {len(lines)} lines other programs used"
        f" {_DISTURBED:.0%} or more of the cores, at most {worst:.0%}: measure again."
    )
    return [told]


def _endings(lines: Sequence[Line]) -> list[str]:
    """Who has its workers restarted while it is measured is not measured."""
    found = [f"{title(line.contender)}, {line.model}, {line.cell}" for line in lines if line.ended]
    if not found:
        return []
    return [f"**Ended**: processes of these servers, while they were measured: {'; '.join(found)}."]


def _of(line: Line, rate: float | None) -> float | None:
    return ratio(line.rate.median, rate) if rate else None


def title(contender: str) -> str:
    return CONTENDERS[contender].title


def number(value: float | None) -> str:
    """Three digits that matter."""
    if value is None:
        return "-"
    return f"{value:.0f}" if value >= 100 else f"{value:.3g}"  # noqa: PLR2004


def times(value: float | None) -> str:
    return "-" if value is None else f"{value:.2f} x"


def percent(value: float | None) -> str:
    return "-" if value is None else f"{value:.0%}"


def spread_ms(spread: Spread) -> str:
    return number(spread.median or None)  # 0: none ended in the window


def by_role(values: Mapping[str, float]) -> str:
    """The sum, and its parts where there are several."""
    total = number(sum(values.values()))
    parts = [f"{role} {number(value)}" for role, value in values.items() if value]
    return f"{total} ({', '.join(parts)})" if len(parts) > 1 else total


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Markdown."""
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)
