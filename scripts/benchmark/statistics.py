"""The arithmetic of the tables: small enough to be checked by hand."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Spread:
    """Rounds of the same measurement: the median, and the extremes."""

    median: float
    low: float
    high: float

    @classmethod
    def of(cls, values: Sequence[float]) -> "Spread":
        """Of at least one value."""
        return cls(median(values), min(values), max(values))


def median(values: Sequence[float]) -> float:
    """The middle one, or the mean of the two in the middle."""
    ordered = sorted(values)
    half = len(ordered) // 2
    return ordered[half] if len(ordered) % 2 else (ordered[half - 1] + ordered[half]) / 2


def percentile(values: Sequence[float], percent: float) -> float:
    """The smallest value that at least so many percent do not exceed; 0 where there is none."""
    ordered = sorted(values)
    if not ordered:
        return 0.0
    rank = max(1, -(-len(ordered) * percent // 100))  # rounded up
    return ordered[int(rank) - 1]


def ratio(numerator: float, denominator: float) -> float | None:
    """None instead of a division by nothing."""
    return numerator / denominator if denominator else None


def ceiling(core_seconds: Mapping[str, float], requests: float, cores: int) -> float | None:
    """The rate at which all cores would do nothing but what these processes did.

    Args:
        core_seconds: of each process, while so many requests were answered.
        requests: how many; a part of one counts.
        cores: of the machine.

    Returns:
        Requests a second.
    """
    return ratio(cores * requests, sum(core_seconds.values()))
