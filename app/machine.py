"""What there is to run on: the cores that this process may use, and GPUs."""

import os
from collections.abc import Iterator, Sequence
from math import ceil
from pathlib import Path
from typing import Literal

_MOST_HTTP_PROCESSES = 16  # of 90 to 190 MB each, unless the operator wants more
_LEAST_THREADS = 2  # of an http process: while one has Python's lock, the other one decodes
_GROUPS = Path("/sys/fs/cgroup")
_OWN = Path("/proc/self/cgroup")


def cores() -> int:
    """Those that it is bound to, or as many as its quota of processor time is worth, if fewer.

    It is bound by ``taskset`` or a container's ``--cpuset-cpus``; a quota is Docker's ``--cpus`` or
    Kubernetes' limit. More threads than cores wait for one another; beyond a quota, all of them
    wait for its next period.
    """
    bound = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return min([bound or 1, *(max(1, ceil(quota)) for quota in _quotas(_OWN, _GROUPS))])


def find_devices(wanted: Sequence[str]) -> list[str]:
    """``auto`` becomes every NVIDIA GPU there is, or the CPU; the parent must not ask torch."""
    if list(wanted) != ["auto"]:
        return list(wanted)
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if visible is None:
        count = len(list(Path("/dev").glob("nvidia[0-9]*")))
    else:
        count = sum(gpu.strip() not in {"", "-1"} for gpu in visible.split(","))
    return [f"cuda:{number}" for number in range(count)] or ["cpu"]


def find_http_processes(wanted: int | Literal["auto"], devices: Sequence[str]) -> int:
    """``auto`` becomes three for four cores where a GPU leaves the cores to them, else one."""
    if wanted != "auto":
        return wanted
    if all(device == "cpu" for device in devices):
        return 1
    return min(_MOST_HTTP_PROCESSES, max(1, cores() * 3 // 4))


def share_of_cores(processes: int) -> int:
    """How many threads each of some http processes should have for pictures.

    With as many in each as there are cores, the one that has Python's lock waits among them for a
    core, and all of its process for it.
    """
    return max(_LEAST_THREADS, ceil(cores() / processes))


def _quotas(own: Path, groups: Path) -> Iterator[float]:
    """Of each control group around this process, in cores.

    In a container the path may be the host's, of which only the root is to be seen.
    """
    if not own.exists():
        return
    for line in own.read_text().splitlines():
        _, controllers, path = line.split(":", 2)
        kinds = controllers.split(",")
        if controllers and "cpu" not in kinds:
            continue
        root = groups / controllers if controllers else groups
        group = root / path.lstrip("/")
        for folder in (group, *group.parents):
            if not folder.is_relative_to(root):
                break
            yield from _quota(folder)


def _quota(folder: Path) -> Iterator[float]:
    """As version 2 of control groups writes it in one file, or version 1 in two."""
    one, two = folder / "cpu.max", folder / "cpu.cfs_quota_us"
    if one.exists():
        quota, period = one.read_text().split()
    elif two.exists():
        quota, period = two.read_text(), (folder / "cpu.cfs_period_us").read_text()
    else:
        return
    if quota != "max" and int(quota) > 0:
        yield int(quota) / int(period)
