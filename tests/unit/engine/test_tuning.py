"""Measuring a model on this machine, and what to make of the figures."""

import itertools
import time
from collections.abc import Sequence

import pytest
import torch

from app.backbones.model import Model
from app.engine import tuning
from app.engine.batching import BatchQueue
from app.engine.device import Device
from app.engine.sharing import SharedCores
from app.engine.tuning import Measured, advise, measure
from app.types import Job, JobResult
from tests.unit.conftest import make_manifest

CPU = torch.device("cpu")


def make_model() -> Model:
    return Model(make_manifest(), CPU)


def figures(*batches: tuple[int, float]) -> list[Measured]:
    return [Measured("fp32", rows, ms, rows / ms * 1e3) for rows, ms in batches]


def test_every_size_is_measured_in_the_batches_that_would_be_served(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    batches: list[int] = []
    monkeypatch.setattr(tuning, "run", lambda _model, jobs: batches.append(len(jobs)))
    (one,) = measure(make_model(), sizes=(1,), seconds=0.05)
    assert set(batches) == {1}
    batches.clear()
    (eight,) = measure(make_model(), sizes=(8,), seconds=0.05)
    assert max(batches) == Device(CPU).sharing(8).max_rows  # not all eight, on several cores
    assert [(m.precision, m.rows) for m in (one, eight)] == [("fp32", 1), ("fp32", 8)]


def test_a_driver_that_has_nothing_to_do_has_a_low_rate(monkeypatch: pytest.MonkeyPatch) -> None:
    model = make_model()
    queue = BatchQueue(SharedCores(max_rows=4, cores=2))
    queue.put(tuning._entry(tuning._job(model)))
    monkeypatch.setattr(tuning, "run", lambda _model, _jobs: queue.close())
    turn = tuning._drive(model, Device(CPU), queue, until=time.perf_counter() + 60)
    assert turn.rows == len(turn.batches) == 1
    assert turn.seconds > 59


def test_a_driver_that_fails_ends_the_measurement(monkeypatch: pytest.MonkeyPatch) -> None:
    calls = itertools.count()

    def fail_once(_model: Model, _jobs: Sequence[Job]) -> list[JobResult]:
        time.sleep(0.002)
        if next(calls) == 20:
            raise RuntimeError("broken")
        return []

    monkeypatch.setattr(tuning, "run", fail_once)
    with pytest.raises(RuntimeError, match="broken"):
        measure(make_model(), sizes=(8,), seconds=60)
    assert next(calls) < 200


def test_sizes_that_do_not_fit_are_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    def fit_one(_model: Model, jobs: Sequence[Job]) -> list[JobResult]:
        if len(jobs) > 1:
            raise torch.OutOfMemoryError
        return []

    monkeypatch.setattr(tuning, "run", fit_one)
    assert [m.rows for m in measure(make_model(), sizes=(1, 64), seconds=0)] == [1]
    with pytest.raises(torch.OutOfMemoryError):
        measure(make_model(), sizes=(64,), seconds=0)


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
