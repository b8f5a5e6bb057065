"""Which programs are made, and which are kept."""

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from torch import Tensor

from app.backbones import compiling
from app.backbones.compiling import compile_model, compile_trunk
from app.backbones.cores import Cores, Kind
from app.backbones.model import DEFAULTS, Model
from app.errors import ModelCheckFailed
from app.types import Precision
from tests.unit.conftest import make_manifest


@pytest.fixture
def model() -> Iterator[Model]:
    before = torch.get_num_threads()
    yield Model(make_manifest(), torch.device("cpu"))
    torch.set_num_threads(before)


def pretend(
    model: Model, monkeypatch: pytest.MonkeyPatch, gains: list[float], error: float = 0.0
) -> None:
    """Programs that gain so much, one after the other, and err so much."""

    def make(_trunk: object, _kind: Kind, _precision: Precision, _cores: Cores) -> object:
        trunk: Callable[[Tensor], Tensor] = model.cut().forward_features
        return lambda rows: trunk(rows) + error

    monkeypatch.setattr(compiling, "Program", make)
    monkeypatch.setattr(compiling, "convert", lambda *_: None)
    monkeypatch.setattr(compiling, "read", lambda _file: None)
    monkeypatch.setattr(compiling, "_gain", lambda *_: gains.pop(0))


@pytest.mark.parametrize(
    ("gains", "cores", "max_rows", "found", "kept"),
    [
        ([2.0, 1.2, 1.1, 1.1, 1.0], 2, 8, [2.0, 1.098], ("alone", "beside")),
        ([1.01, 1.5, 1.0], 2, 2, [1.01, 1.225], ("beside",)),
        ([1.5, 1.2, 0.8], 2, 2, [1.5, 0.98], ("alone",)),  # it loses with several what it gains
        ([1.5, 1.4, 1.3], 1, 4, [1.398], ("beside",)),  # one core: no row has several
        ([1.01, 0.5], 2, 1, [1.01, 0.5], ()),
    ],
)
def test_only_what_is_faster_by_the_mean_of_its_sizes_is_kept(
    gains: list[float],
    cores: int,
    max_rows: int,
    found: list[float],
    kept: tuple[Kind, ...],
    model: Model,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    pretend(model, monkeypatch, left := list(gains))
    build = compile_trunk(model, tmp_path, Cores(cores, cores), max_rows)
    assert left == []
    assert [built.gain for built in build.programs] == found
    assert build.kinds == kept


def test_a_program_that_gives_other_logits_is_never_compared_for_speed(
    model: Model, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pretend(model, monkeypatch, [], error=1.0)
    with pytest.raises(ModelCheckFailed, match="program"):
        compile_trunk(model, tmp_path, Cores(1, 1), 1)


def test_whatever_a_compiler_raises_is_told_in_the_build(
    model: Model, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise RuntimeError("a long story\nno such register\n")

    pretend(model, monkeypatch, [2.0])
    build = compile_model(make_manifest(), DEFAULTS, tmp_path, Cores(1, 1), 1)
    assert build.kinds == ("beside",)
    monkeypatch.setattr(compiling, "convert", fail)
    build = compile_model(make_manifest(), DEFAULTS, tmp_path, Cores(1, 1), 1)
    assert build.error == "RuntimeError: no such register"
    assert not build.kinds
