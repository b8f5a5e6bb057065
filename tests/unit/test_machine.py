"""What there is to run on: a process's own cores, not its machine's, and GPUs."""

import os
from pathlib import Path
from typing import Literal

import pytest

import app.machine
from app.cli import main, settings_from
from app.machine import cores, find_devices, find_http_processes, share_of_cores
from app.settings import Settings


@pytest.fixture
def groups(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty tree of control groups; the process is in none of them, and bound to 8 cores."""
    monkeypatch.setattr(app.machine, "_GROUPS", tmp_path)
    monkeypatch.setattr(app.machine, "_OWN", tmp_path / "own")
    monkeypatch.setattr(os, "sched_getaffinity", lambda _pid: range(8), raising=False)
    return tmp_path


def limit(folder: Path, quota: str, period: str = "100000") -> None:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "cpu.max").write_text(f"{quota} {period}\n")


def limit_as_version_1(folder: Path, quota: str, period: str = "100000") -> None:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "cpu.cfs_quota_us").write_text(f"{quota}\n")
    (folder / "cpu.cfs_period_us").write_text(f"{period}\n")


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="there is no binding here")
def test_cores_are_those_that_the_process_is_bound_to() -> None:
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {min(before)})
    try:
        assert cores() == 1
    finally:
        os.sched_setaffinity(0, before)


@pytest.mark.usefixtures("groups")
def test_without_control_groups_there_is_no_quota() -> None:
    assert cores() == 8


@pytest.mark.parametrize(
    ("quota", "expected"), [("max", 8), ("200000", 2), ("150000", 2), ("50000", 1), ("9900000", 8)]
)
def test_a_quota_counts_in_whole_cores(groups: Path, quota: str, expected: int) -> None:
    (groups / "own").write_text("0::/\n")
    limit(groups, quota)
    assert cores() == expected


def test_the_tightest_of_the_groups_around_a_process_counts(groups: Path) -> None:
    (groups / "own").write_text("0::/pod/container\n")
    limit(groups / "pod", "300000")
    limit(groups / "pod" / "container", "max")
    limit(groups / "other", "100000")
    assert cores() == 3


def test_a_container_that_sees_but_its_root_has_the_quota_of_that(groups: Path) -> None:
    (groups / "own").write_text("0::/docker/0123456789ab\n")
    limit(groups, "200000")
    assert cores() == 2


@pytest.mark.parametrize(("quota", "expected"), [("-1", 8), ("250000", 3)])
def test_the_first_version_of_control_groups_is_read_too(
    groups: Path, quota: str, expected: int
) -> None:
    (groups / "own").write_text("4:memory:/x\n3:cpu,cpuacct:/docker/01\n1:name=systemd:/\n0::/\n")
    limit_as_version_1(groups / "cpu,cpuacct", quota)
    assert cores() == expected


def test_devices_that_are_named_are_taken_as_they_are() -> None:
    assert find_devices(("cpu", "cpu")) == ["cpu", "cpu"]


def test_auto_is_a_worker_for_each_visible_gpu_or_one_on_the_cpu(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "2,3")
    assert find_devices(("auto",)) == ["cuda:0", "cuda:1"]
    for hidden in ("", "-1"):
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", hidden)
        assert find_devices(("auto",)) == ["cpu"]
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES")
    monkeypatch.setattr(Path, "glob", lambda _self, _pattern: iter([Path("/dev/nvidia0")]))
    assert find_devices(("auto",)) == ["cuda:0"]


@pytest.mark.usefixtures("groups")  # no quota: eight cores
@pytest.mark.parametrize(
    ("wanted", "devices", "count"),
    [
        ("auto", ["cpu"], 1), ("auto", ["cpu", "cpu"], 1), ("auto", ["cuda:0"], 6),
        (5, ["cpu"], 5), (1, ["cuda:0"], 1),
    ],
)  # fmt: skip
def test_a_gpu_is_fed_by_an_http_process_for_most_cores(
    wanted: Literal["auto"] | int, devices: list[str], count: int
) -> None:
    assert find_http_processes(wanted, devices) == count


@pytest.mark.usefixtures("groups")
@pytest.mark.parametrize(("processes", "threads"), [(1, 8), (3, 3), (6, 2), (12, 2)])
def test_http_processes_share_the_cores(processes: int, threads: int) -> None:
    assert share_of_cores(processes) == threads


def test_the_usual_number_of_http_processes_follows_the_devices() -> None:
    assert Settings().http_processes == "auto"
    assert settings_from(["--http-processes", "3"]).http_processes == 3


@pytest.mark.parametrize("value", ["0", "65", "many"])
def test_a_number_of_http_processes_that_cannot_be_is_refused_by_the_settings_name(
    value: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("APP_HTTP_PROCESSES", value)
    with pytest.raises(SystemExit):
        main(["serve"])
    told = capsys.readouterr().err
    assert "APP_HTTP_PROCESSES: Input should be 'auto'" in told
    assert "LITERAL" not in told
