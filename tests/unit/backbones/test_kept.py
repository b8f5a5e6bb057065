"""A model computes with what an earlier start compiled, from its first picture on, or as it is."""

import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import Future
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from app.backbones import kept as kept_module
from app.backbones.builds import Build, Built, building, keep, place_of, trying
from app.backbones.cores import Cores, Kind
from app.backbones.kept import Kept, kept
from app.backbones.model import Loading, Model
from app.backbones.onednn import OneDnn
from app.backbones.registry import Registry
from tests.server import ROOT
from tests.unit.backbones.test_program import CONVERT
from tests.unit.conftest import make_manifest

CPU = torch.device("cpu")
TWO = Cores(2, 2)
BOTH = Build(
    programs=(
        Built(kind="alone", gain=2.0, kept=True),
        Built(kind="beside", gain=1.2, kept=True),
    )
)
NONE = Build(programs=(Built(kind="beside", gain=0.9, kept=False),))

Program = Callable[[Tensor], Tensor]


@pytest.fixture(autouse=True)
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    return place_of("sha256:1", "fp32", TWO, 8)


def make(place: Path, build: Build) -> None:
    with building(place) as work:
        made = work / "made"
        made.mkdir()
        keep(build, made, place)


def loaded(**programs: Program) -> Kept:
    found: Future[dict[Kind, Program]] = Future()
    found.set_result({kind: programs[kind] for kind in TWO.kinds if kind in programs})
    return Kept(BOTH, found, TWO)  # type: ignore[arg-type]


def broken(error: Exception) -> Kept:
    found: Future[dict[Kind, Program]] = Future()
    found.set_exception(error)
    return Kept(BOTH, found, TWO)  # type: ignore[arg-type]


def trunk() -> Program:
    return Model(make_manifest(), CPU).cut().forward_features


def test_a_model_that_begins_with_kept_programs_makes_no_trunk_of_its_own(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    made: list[object] = []
    own, called = trunk(), []

    def program(x: Tensor) -> Tensor:
        called.append(len(x))
        return own(x)

    convolution = OneDnn.conv

    def note(*args: Any) -> object:
        made.append(args)
        return convolution(*args)

    monkeypatch.setattr(OneDnn, "conv", note)
    model = Model(make_manifest(), CPU, kept=loaded(alone=program, beside=program))
    assert model.info.compile.state == "ready"
    assert made == []
    assert {1, TWO.drivers} <= set(called)  # each request of a program has run before it serves
    before = len(called)
    model.cut().forward_features(model.example(3))
    assert called[before:] == [3]
    trunk()
    assert made  # by a model that has none


def test_where_one_of_the_programs_was_not_worth_it_the_models_own_trunk_goes_on() -> None:
    model = Model(make_manifest(), CPU, kept=loaded(alone=trunk()))
    assert model.info.compile.state == "ready"
    x = model.example(2)
    expected = trunk()(x)
    torch.testing.assert_close(model.cut().forward_features(x), expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    "wrong",
    [
        loaded(alone=lambda x: trunk()(x) + 1, beside=trunk()),
        loaded(alone=trunk(), beside=lambda x: trunk()(x) + 1),
        broken(RuntimeError("OpenVINO does not take it")),
    ],
)
def test_programs_that_are_wrong_leave_the_model_as_it_is_and_are_told(wrong: Kept) -> None:
    model = Model(make_manifest(), CPU, kept=wrong)
    assert model.info.compile.state == "failed"
    x = model.example(2)
    torch.testing.assert_close(model.cut().forward_features(x), trunk()(x), rtol=1e-4, atol=1e-5)


def test_there_is_nothing_where_nothing_was_compiled_or_gained(place: Path) -> None:
    with kept("sha256:1", "fp32", TWO, 8) as found:
        assert found is None
    make(place, NONE)
    with kept("sha256:1", "fp32", TWO, 8) as found:
        assert found is None


def test_what_a_worker_died_of_is_not_used_again(place: Path) -> None:
    make(place, BOTH)
    (place / "trying").touch()
    with kept("sha256:1", "fp32", TWO, 8) as found:
        assert found is None


def test_what_others_could_have_written_is_not_used(place: Path) -> None:
    make(place, BOTH)
    place.parent.chmod(0o777)
    with kept("sha256:1", "fp32", TWO, 8) as found:
        assert found is None


def test_a_damaged_build_is_not_used(place: Path) -> None:
    make(place, BOTH)
    (place / "build.json").write_text('{"programs": 1')
    with kept("sha256:1", "fp32", TWO, 8) as found:
        assert found is None


def test_a_place_that_somebody_uses_is_not_waited_for(place: Path) -> None:
    make(place, BOTH)
    with building(place), kept("sha256:1", "fp32", TWO, 8) as found:
        assert found is None  # else a thread that loads would wait for one that waits for it


def test_a_model_that_can_no_longer_be_compiled_takes_no_programs() -> None:
    as_it_is = Model(
        make_manifest(), CPU, Loading(fused=False), loaded(alone=trunk(), beside=trunk())
    )
    assert as_it_is.info.compile.state == "off"


def test_a_death_at_the_first_run_is_remembered(
    place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make(place, BOTH)
    monkeypatch.setattr(kept_module, "load", lambda *_: {})
    with (
        kept("sha256:1", "fp32", TWO, 8),
        pytest.raises(RuntimeError, match="remove"),
        trying(place),
    ):
        pass
    with trying(place):  # it went well
        pass


def test_a_registry_loads_what_openvino_made_beside_the_model(tmp_path: Path) -> None:
    manifest = make_manifest()
    place = place_of(manifest.version(), "fp32", TWO, 8)
    subprocess.run(
        [sys.executable, "-c", CONVERT, str(tmp_path)], cwd=ROOT, check=True, timeout=300
    )
    with building(place) as work:
        made = work / "made"
        made.mkdir()
        for file in tmp_path.glob("trunk.*"):
            file.rename(made / file.name)
        keep(BOTH, made, place)
    registry = Registry({"m": manifest}, CPU)
    asked: list[str] = []

    def find(version: str, precision: object) -> object:
        asked.append(version)
        assert precision == "fp32"
        return kept(version, "fp32", TWO, 8)

    assert registry.load("m", lambda _model: None, find) is None  # type: ignore[arg-type]
    (info,) = registry.models()
    assert asked == [manifest.version()]
    assert info.compile.state == "ready"
    assert not (place / "trying").exists()
