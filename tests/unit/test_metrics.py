"""What the processes count reaches the parent."""

from typing import TYPE_CHECKING, Any

from app.metrics import GatheredMetrics, MetricsRegistry

if TYPE_CHECKING:
    from collections.abc import Callable

Lines = list[dict[str, Any]]


def test_gathered_events_leave_together_and_each_once() -> None:
    sent = Lines()
    due: list[Callable[[], None]] = []
    metrics = GatheredMetrics(sent.append, lambda _seconds, flush: due.append(flush))
    for status in ("200", "404"):
        metrics.add(("requests", 1, {"route": "/", "status": status}))
    assert (sent, len(due)) == ([], 1)
    due.pop()()
    assert [[labels["status"] for _, _, labels in line["events"]] for line in sent] == [
        ["200", "404"]
    ]
    metrics.flush()
    assert len(sent) == 1
    metrics.add(("in_flight", 3, {"process": "http-0"}))
    assert len(due) == 1


def test_what_is_flushed_early_is_not_sent_again() -> None:
    sent = Lines()
    due: list[Callable[[], None]] = []
    metrics = GatheredMetrics(sent.append, lambda _seconds, flush: due.append(flush))
    metrics.add(("in_flight", 1, {"process": "http-0"}))
    metrics.flush()
    due.pop()()
    assert len(sent) == 1


def test_of_a_gauges_values_the_last_one_stays() -> None:
    registry, sent = MetricsRegistry(), Lines()
    metrics = GatheredMetrics(sent.append, lambda _seconds, _flush: None)
    for value in (1, 2, 0):
        metrics.add(("in_flight", value, {"process": "http-0"}))
    metrics.flush()
    for event in sent[0]["events"]:
        registry.add(*event)
    assert 'camserve_in_flight{process="http-0"} 0.0' in registry.page()
