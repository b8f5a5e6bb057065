"""What of CUDA graphs can be told without a GPU; the rest is in ``tests/gpu``."""

import logging
from collections.abc import Callable

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from app.backbones import model as model_module
from app.backbones.captured import Values, sizes
from app.backbones.model import Model
from app.errors import ModelCheckFailed
from tests.unit.conftest import make_manifest


@given(st.integers(1, 1024))
def test_no_more_than_a_third_of_a_graphs_rows_is_idle(largest: int) -> None:
    found = sizes(largest)
    assert found == sorted(set(found))
    assert (found[0], found[-1]) == (1, largest)
    for rows in range(1, largest + 1):
        graph = next(size for size in found if size >= rows)
        assert graph - rows <= graph / 3


class Recorded(nn.Module):
    """In place of ``Captured``: the function itself, or one that is wrong."""

    skew = 0.0
    skewed: type = tuple  # the whole model gives a tuple, its trunk a tensor

    def __init__(self, function: Callable[[Tensor], Values], *_: object) -> None:
        super().__init__()
        self._function = function

    def forward(self, x: Tensor) -> Values:
        values = self._function(x)
        wrong = self.skew != 0 and isinstance(values, self.skewed)
        several = values if isinstance(values, tuple) else (values,)
        found = tuple(v + self.skew for v in several) if wrong else several
        return found if isinstance(values, tuple) else found[0]


@pytest.mark.parametrize("succeed", [0, 1])
def test_a_model_that_cannot_be_captured_runs_as_it_is(
    succeed: int, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    made: list[Recorded] = []

    def refuse(function: Callable[[Tensor], Values], *_: object) -> Recorded:
        if len(made) == succeed:
            raise torch.AcceleratorError("operation not permitted when stream is capturing")
        made.append(Recorded(function))
        return made[-1]

    model = Model(make_manifest(), torch.device("cpu"))
    monkeypatch.setattr(model_module, "Captured", refuse)
    monkeypatch.setattr(torch.cuda, "synchronize", lambda _device: None)
    before = model.cut()
    with caplog.at_level(logging.WARNING):
        model._capture("m", 8)
    assert model.cut() is before
    assert model._classifier is None
    assert "m is launched kernel by kernel" in caplog.text


@pytest.mark.parametrize("skewed", [tuple, Tensor])
def test_a_captured_model_gives_the_same_and_one_that_does_not_is_refused(
    skewed: type, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = Model(make_manifest(), torch.device("cpu"))
    batch = model.inputs.examples()
    activations, answers = model.classify(batch, model.cut())
    monkeypatch.setattr(model_module, "Captured", Recorded)
    model._capture("m", 8)
    assert isinstance(model._classifier, Recorded)
    for ours, expected in zip(
        model.classify(batch, model.cut()), (activations, answers), strict=True
    ):
        assert torch.equal(ours, expected)
    monkeypatch.setattr(Recorded, "skew", 1.0)
    monkeypatch.setattr(Recorded, "skewed", skewed)
    with pytest.raises(ModelCheckFailed, match="recording"):
        model._check_recording(batch)


def test_an_untraceable_model_is_not_captured(monkeypatch: pytest.MonkeyPatch) -> None:
    model = Model(make_manifest(), torch.device("cpu"))
    monkeypatch.setattr(model, "_cutter", object())
    monkeypatch.setattr(model_module, "Captured", lambda *_: pytest.fail("captured"))
    model._capture("m", 8)
