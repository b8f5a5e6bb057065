"""What of CUDA graphs can be told without a GPU; the rest is in ``tests/gpu``."""

import logging

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from app.backbones import model as model_module
from app.backbones.captured import Captured, sizes
from app.backbones.model import Model
from tests.unit.conftest import make_manifest


@given(st.integers(1, 1024))
def test_no_more_than_a_third_of_a_graphs_rows_is_idle(largest: int) -> None:
    found = sizes(largest)
    assert found == sorted(set(found))
    assert (found[0], found[-1]) == (1, largest)
    for rows in range(1, largest + 1):
        graph = next(size for size in found if size >= rows)
        assert graph - rows <= graph / 3


def test_a_trunk_that_cannot_be_captured_runs_as_it_is(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def refuse(*_: object) -> Captured:
        raise torch.AcceleratorError("operation not permitted when stream is capturing")

    model = Model(make_manifest(), torch.device("cpu"))
    monkeypatch.setattr(model_module, "Captured", refuse)
    monkeypatch.setattr(torch.cuda, "synchronize", lambda _device: None)
    before = model.cut()
    with caplog.at_level(logging.WARNING):
        model._capture("m", 8)
    assert model.cut() is before
    assert "m is launched kernel by kernel" in caplog.text


def test_an_untraceable_model_is_not_captured(monkeypatch: pytest.MonkeyPatch) -> None:
    model = Model(make_manifest(), torch.device("cpu"))
    monkeypatch.setattr(model, "_cutter", object())
    monkeypatch.setattr(model_module, "Captured", lambda *_: pytest.fail("captured"))
    model._capture("m", 8)
