"""Measuring a model on this machine, and what to make of the figures."""

import pytest
import torch

from app.backbones.model import Model
from app.engine.tuning import Measured, advise, measure
from tests.unit.conftest import make_manifest


def figures(*batches: tuple[int, float]) -> list[Measured]:
    return [Measured("fp32", rows, milliseconds) for rows, milliseconds in batches]


def test_every_size_is_measured() -> None:
    found = measure(Model(make_manifest(), torch.device("cpu")), sizes=(1, 3), seconds=0)
    assert [(m.precision, m.rows) for m in found] == [("fp32", 1), ("fp32", 3)]
    assert all(m.rate == pytest.approx(m.rows / m.milliseconds * 1e3) for m in found)
    assert all(m.milliseconds > 0 for m in found)


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
