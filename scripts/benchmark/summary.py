"""Rounds become lines: medians with their extremes, for each server, model and cell."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from benchmark.statistics import Spread, median

Row = Mapping[str, Any]

OK = "200"


@dataclass(frozen=True, slots=True)
class Line:
    """A server's figures in one cell, over all rounds.

    Rates are answers a second; ``offered``, of an open loop alone, is what was asked of it;
    ``core_ms`` the processor time of a request by role of the process; ``ceiling`` the rate at
    which all cores would do nothing else; ``others`` the share of all cores that neither the server
    nor the generator used; ``ended`` how many of the server's processes ended in a round, at most.
    """

    contender: str
    model: str
    cell: str
    rate: Spread
    offered: float | None
    latency_ms: Mapping[str, Spread]
    failed: int
    core_ms: Mapping[str, float]
    stages_ms: Mapping[str, float]
    peak_mb: Mapping[str, float]
    ceiling: float | None
    others: float
    ended: int

    @property
    def of_ceiling(self) -> float | None:
        """How much of what the cores could do is done."""
        return self.rate.median / self.ceiling if self.ceiling else None


def summarise(rows: Iterable[Row], cores: int, seconds: float) -> list[Line]:
    """One line for each server, model and cell, in the order of the first rows."""
    groups: dict[tuple[str, str, str], list[Row]] = {}
    for row in rows:
        groups.setdefault((row["contender"], row["model"], row["cell"]), []).append(row)
    return [_line(key, group, cores * seconds) for key, group in groups.items()]


def _line(key: tuple[str, str, str], rows: Sequence[Row], core_seconds: float) -> Line:
    ceilings = [row["ceiling"] for row in rows if row["ceiling"]]
    offered = [row["offered"] for row in rows if "offered" in row]
    return Line(
        *key,
        rate=Spread.of([row["rate"] for row in rows]),
        offered=median(offered) if offered else None,
        latency_ms={
            name: Spread.of([row["latency_ms"][name] for row in rows])
            for name in rows[0]["latency_ms"]
        },
        failed=sum(
            count for row in rows for status, count in row["statuses"].items() if status != OK
        ),
        core_ms=medians([row["core_ms"] for row in rows]),
        stages_ms=medians([row["stages_ms"] for row in rows]),
        peak_mb=medians([row["peak_mb"] for row in rows]),
        ceiling=median(ceilings) if ceilings else None,
        others=median([row["others_s"] for row in rows]) / core_seconds,
        ended=max(row.get("ended", 0) for row in rows),  # older results do not have it
    )


def medians(tables: Sequence[Mapping[str, float | None]]) -> dict[str, float]:
    """Name by name; a name that is missing somewhere, or has no value, counts as 0 there."""
    names = dict.fromkeys(name for table in tables for name in table)
    return {name: median([table.get(name) or 0.0 for table in tables]) for name in names}
