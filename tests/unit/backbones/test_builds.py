"""What was compiled is kept for exactly the model, machine and libraries that it was made for."""

import stat
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from app.backbones import builds
from app.backbones.builds import Build, Built, building, find, keep, place_of, trying
from app.backbones.cores import Cores


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    return tmp_path


TWO = Cores(2, 2)
BUILD = Build(
    programs=(
        Built(kind="alone", gain=1.5, kept=True),
        Built(kind="beside", gain=1.01, kept=False),
    )
)


def make(place: Path, build: Build = BUILD) -> None:
    with building(place) as work:
        made = work / "made"
        made.mkdir()
        (made / Build.FILE).write_bytes(b"trunk")
        keep(build, made, place)


def test_a_build_is_found_again_with_its_trunk() -> None:
    place = place_of("sha256:1", "fp32", TWO, 8)
    assert find(place) is None
    make(place)
    found = find(place)
    assert found == BUILD
    assert found.kinds == ("alone",)
    assert (place / Build.FILE).read_bytes() == b"trunk"


def test_another_model_precision_machine_or_library_has_another_place(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    places = {
        place_of("sha256:1", "fp32", TWO, 8),
        place_of("sha256:2", "fp32", TWO, 8),
        place_of("sha256:1", "bf16", TWO, 8),
        place_of("sha256:1", "fp32", Cores(2, 1), 8),
        place_of("sha256:1", "fp32", Cores(4, 2), 8),
        place_of("sha256:1", "fp32", TWO, 1),
    }
    monkeypatch.setattr(torch, "__version__", "9.9")
    places.add(place_of("sha256:1", "fp32", TWO, 8))
    monkeypatch.setattr(builds, "openvino_version", lambda: "9.9")
    places.add(place_of("sha256:1", "fp32", TWO, 8))
    (tmp_path / "cpuinfo").write_text("model name : another\nflags : mmx\n")
    monkeypatch.setattr(builds, "_CPUINFO", tmp_path / "cpuinfo")
    places.add(place_of("sha256:1", "fp32", TWO, 8))
    assert len(places) == 9


def test_a_processor_is_known_by_its_name_and_flags_not_by_its_clock(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    file = tmp_path / "cpuinfo"
    monkeypatch.setattr(builds, "_CPUINFO", file)
    found = set()
    for clock in ("2000", "3000"):
        file.write_text(f"model name\t: one\ncpu MHz\t\t: {clock}\nflags\t\t: mmx\n")
        found.add(place_of("sha256:1", "fp32", TWO, 8))
    file.unlink()
    found.add(place_of("sha256:1", "fp32", TWO, 8))  # a system without such a file
    assert len(found) == 2


def test_a_cache_that_others_may_write_into_is_not_used(cache: Path) -> None:
    place = place_of("sha256:1", "fp32", TWO, 8)
    make(place)
    assert stat.S_IMODE(place.parent.stat().st_mode) == 0o700
    place.parent.chmod(0o777)
    with pytest.raises(PermissionError, match="may write"), building(place):
        pass


def test_what_a_killed_process_left_in_the_works_is_cleared_away() -> None:
    place = place_of("sha256:1", "fp32", TWO, 8)
    with building(place) as work:
        pass
    work.mkdir()
    (work / "half").touch()
    with building(place) as again:
        assert list(again.iterdir()) == []
    assert not again.exists()


def test_a_build_that_a_worker_died_of_is_not_tried_again() -> None:
    place = place_of("sha256:1", "fp32", TWO, 8)
    make(place)
    with trying(place):
        pass
    with pytest.raises(ValueError, match="no trunk"), trying(place):
        raise ValueError("no trunk")
    dies = "import os, sys; from pathlib import Path; from app.backbones.builds import trying\n"
    dies += "with trying(Path(sys.argv[1])): os.abort()"
    subprocess.run([sys.executable, "-c", dies, str(place)], check=False, timeout=60)
    with pytest.raises(RuntimeError, match="remove"), trying(place):
        pass


def test_a_worker_that_is_told_to_end_meanwhile_is_no_death() -> None:
    place = place_of("sha256:1", "fp32", TWO, 8)
    make(place)
    ends = "import sys; from pathlib import Path; from app.backbones.builds import trying\n"
    ends += "trying(Path(sys.argv[1])).__enter__()"  # a daemon thread's, at the end of its process
    subprocess.run([sys.executable, "-c", ends, str(place)], check=True, timeout=60)
    with trying(place):
        pass
