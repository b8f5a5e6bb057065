"""What is counted. The parent owns the registry; the other processes send it their events."""

from collections.abc import Callable
from typing import Any

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    disable_created_metrics,
    generate_latest,
)

disable_created_metrics()  # type: ignore[no-untyped-call]

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"

Event = tuple[str, float, dict[str, str]]

_GATHER_S = 0.1
_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30)


class MetricsRegistry:
    """All metrics of the service, in the parent."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self._metrics: dict[str, Counter | Gauge | Histogram] = {
            "requests": Counter(
                "camserve_requests_total", "Answered requests.", ["route", "status"],
                registry=self.registry,
            ),
            "request_seconds": Histogram(
                "camserve_request_seconds", "From the first byte to the last.", ["route"],
                buckets=_SECONDS, registry=self.registry,
            ),
            "stage_seconds": Histogram(
                "camserve_stage_seconds", "Where a request's time goes.", ["stage"],
                buckets=_SECONDS, registry=self.registry,
            ),
            "batch_rows": Histogram(
                "camserve_batch_rows", "Rows that shared a trunk pass.", ["model"],
                buckets=(1, 2, 4, 8, 16, 32, 64, 128), registry=self.registry,
            ),
            "cache": Counter(
                "camserve_cache_total", "Requests that an answer might be kept for.", ["outcome"],
                registry=self.registry,
            ),
            "in_flight": Gauge(
                "camserve_in_flight", "Jobs at the workers.", ["process"], registry=self.registry
            ),
            "model_ready": Gauge(
                "camserve_model_ready", "1 where a worker serves the model.", ["model", "process"],
                registry=self.registry,
            ),
            "restarts": Counter(
                "camserve_process_restarts_total", "Processes that were started again.", ["role"],
                registry=self.registry,
            ),
        }  # fmt: skip

    def add(self, name: str, value: float, labels: dict[str, str]) -> None:
        """Count, observe or set, as the metric's kind has it."""
        metric: Any = self._metrics[name].labels(**labels)
        if isinstance(metric, Counter):
            metric.inc(value)
        elif isinstance(metric, Histogram):
            metric.observe(value)
        else:
            metric.set(value)

    def forget(self, process: str) -> None:
        """Set what a process had reported of itself to 0: it has ended."""
        for gauge in self._metrics.values():
            if isinstance(gauge, Gauge):
                samples = [sample for family in gauge.collect() for sample in family.samples]
                for sample in samples:
                    if sample.labels["process"] == process:
                        gauge.labels(**sample.labels).set(0)

    def page(self) -> str:
        """The text that ``GET /metrics`` answers."""
        return generate_latest(self.registry).decode()


class Metrics:
    """The same, seen from any other process: events that ``send`` carries to the parent."""

    def __init__(self, send: Callable[[dict[str, Any]], None]) -> None:
        self._send = send

    def add(self, *events: Event) -> None:
        """Each event is a name of ``MetricsRegistry``, a value and its labels."""
        self._send({"kind": "metrics", "events": events})


class GatheredMetrics(Metrics):
    """Events that leave together, a few times a second.

    Messages for each request would keep the parent busy: 0.4 to 1 millisecond of a core each time.

    Args:
        send: to the parent.
        later: calls a function after so many seconds, as an event loop does.
    """

    def __init__(
        self,
        send: Callable[[dict[str, Any]], None],
        later: Callable[[float, Callable[[], None]], object],
    ) -> None:
        super().__init__(send)
        self._later = later
        self._events: list[Event] = []

    def add(self, *events: Event) -> None:
        """As ``Metrics.add``; call ``flush`` where the parent must know now."""
        if not self._events:
            self._later(_GATHER_S, self.flush)
        self._events += events

    def flush(self) -> None:
        """Send what was gathered."""
        events, self._events = self._events, []
        if events:
            super().add(*events)
