"""Measuring a model on this machine, and what to make of the figures."""

from collections.abc import Sequence

import pytest
import torch

from app.backbones.model import Model
from app.engine import tuning
from app.engine.tuning import Measured, advise, measure
from app.types import Job, JobResult
from tests.unit.conftest import make_manifest


def figures(*batches: tuple[int, float]) -> list[Measured]:
    return [Measured("fp32", rows, ms, rows / ms * 1e3) for rows, ms in batches]


def test_every_size_is_measured_as_it_would_be_served() -> None:
    found = measure(Model(make_manifest(), torch.device("cpu")), sizes=(1, 6), seconds=0.2)
    assert [(m.precision, m.rows) for m in found] == [("fp32", 1), ("fp32", 6)]
    one, six = found
    assert one.rate == pytest.approx(1e3 / one.milliseconds, rel=0.5)  # one batch at a time
    assert six.milliseconds > 0


def test_a_model_that_fails_ends_the_measurement(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(_model: Model, _jobs: Sequence[Job]) -> list[JobResult]:
        raise RuntimeError("no memory")

    monkeypatch.setattr(tuning, "run", fail)
    with pytest.raises(RuntimeError, match="no memory"):
        measure(Model(make_manifest(), torch.device("cpu")), sizes=(2,), seconds=60)


def test_the_smallest_batch_is_advised_that_is_almost_as_fast_as_any() -> None:
    found = figures((1, 10), (2, 15), (4, 20.4), (8, 40))
    advised = advise(found)
    assert advised is not None
    assert advised.rows == 4  # 196 rows a second, of 200


def test_a_batch_that_takes_too_long_is_not_advised() -> None:
    found = figures((1, 10), (2, 15), (4, 20))
    advised = advise(found, latency_ms=15)
    assert advised is not None
    assert advised.rows == 2
    assert advise(found, latency_ms=5) is None
    assert advise([]) is None
