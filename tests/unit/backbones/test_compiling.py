"""Which programs are made, and which are kept; a real compiler is in tests/e2e."""

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from torch import Tensor

from app.backbones import compiling
from app.backbones.compiling import Cores, compile_model, compile_trunk
from app.backbones.model import DEFAULTS, Model
from app.errors import ModelCheckFailed
from tests.unit.conftest import make_manifest


@pytest.fixture
def model() -> Iterator[Model]:
    before = torch.get_num_threads()
    yield Model(make_manifest(), torch.device("cpu"))
    torch.set_num_threads(before)


def pretend(monkeypatch: pytest.MonkeyPatch, gains: list[float], error: float = 0.0) -> None:
    """Programs that gain so much, one after the other, and err so much."""

    def make(model: Model, x: Tensor, library: Path) -> object:
        library.touch()
        return lambda rows: model.cut().forward_features(rows) + error

    monkeypatch.setattr(compiling, "make_program", make)
    monkeypatch.setattr(compiling, "_gain", lambda *_: gains.pop(0))


@pytest.mark.parametrize(
    ("gains", "cores", "max_rows", "kept"),
    [
        ([2.0, 1.5, 1.4, 1.3, 1.2], 2, 8, ["1-several.so", "1.so", "2.so", "4.so", "8.so"]),
        ([1.02, 1.5, 1.4, 1.07], 2, 8, ["1.so", "2.so"]),  # ends at the first that gains nothing
        ([1.5, 1.02], 2, 8, ["1-several.so"]),
        ([1.5, 1.4], 1, 2, ["1.so", "2.so"]),  # one core has no row by several
        ([1.02, 0.5], 2, 1, []),
    ],
)
def test_only_what_is_faster_is_kept_from_one_row_on_until_nothing_is_gained(
    gains: list[float],
    cores: int,
    max_rows: int,
    kept: list[str],
    model: Model,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    pretend(monkeypatch, left := list(gains))
    build = compile_trunk(model, tmp_path, Cores(cores, 1), max_rows)
    assert left == []
    assert [built.gain for built in build.programs] == gains
    assert sorted(file.name for file in tmp_path.iterdir()) == sorted(kept)
    assert [path.name for path in build.libraries(tmp_path).values()] == kept


def test_a_program_that_gives_other_logits_is_never_compared_for_speed(
    model: Model, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pretend(monkeypatch, [], error=1.0)
    with pytest.raises(ModelCheckFailed, match="program"):
        compile_trunk(model, tmp_path, Cores(1, 1), 1)


@pytest.mark.usefixtures("model")  # puts the number of threads back
def test_whatever_a_compiler_raises_is_told_in_the_build(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise RuntimeError("a long story\nno such register\n")

    pretend(monkeypatch, [2.0])
    build = compile_model(make_manifest(), DEFAULTS, tmp_path, Cores(1, 1), 1)
    assert [built.library for built in build.programs] == ["1.so"]
    monkeypatch.setattr(compiling, "make_program", fail)
    build = compile_model(make_manifest(), DEFAULTS, tmp_path, Cores(1, 1), 1)
    assert build.error == "RuntimeError: no such register"
    assert not build.libraries(tmp_path)
