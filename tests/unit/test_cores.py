"""Threads are for the cores that a process has, not for those that its machine has."""

import os
from pathlib import Path

import pytest

import app.cores
from app.cores import cores


@pytest.fixture
def groups(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty tree of control groups; the process is in none of them, and bound to 8 cores."""
    monkeypatch.setattr(app.cores, "_GROUPS", tmp_path)
    monkeypatch.setattr(app.cores, "_OWN", tmp_path / "own")
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


def test_without_control_groups_there_is_no_quota(groups: Path) -> None:
    assert cores() == 8
    assert not (groups / "own").exists()


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
