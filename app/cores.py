"""How many cores this process may use: not all of a machine's belong to a container."""

import os
from collections.abc import Iterator
from math import ceil
from pathlib import Path

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
