"""What processes use, from /proc; and an end to them that misses none."""

import ctypes
import os
import signal
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

_TICKS = os.sysconf("SC_CLK_TCK")
_PR_SET_CHILD_SUBREAPER = 36


@contextmanager
def adopting_orphans() -> Iterator[None]:
    """Meanwhile whatever this process started stays its descendant, daemons too."""
    prctl = ctypes.CDLL(None).prctl
    prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
    try:
        yield
    finally:
        prctl(_PR_SET_CHILD_SUBREAPER, 0, 0, 0, 0)


def tree(pid: int) -> list[int]:
    """A process and its descendants."""
    found = [pid]
    for parent in found:
        found.extend(children(parent))
    return found


def children(pid: int) -> list[int]:
    """Those that any thread of a process started."""
    with suppress(OSError):
        tasks = Path(f"/proc/{pid}/task").iterdir()
        return [int(child) for task in tasks for child in _read(task / "children").split()]
    return []


def role(pid: int) -> str:
    """A short name of what a process does: camserve's own, Ray's own, or the program's."""
    words = _read(Path(f"/proc/{pid}/cmdline")).split("\0")
    if "child" in words:
        return words[words.index("child") + 1]
    if words[0].startswith("ray::"):
        return words[0].split()[0]
    if {"app", "serve"} <= set(words):
        return "parent"
    return _read(Path(f"/proc/{pid}/comm")).strip()


def core_seconds(pids: Iterable[int]) -> dict[int, float]:
    """The processor time that each has used so far."""
    return {pid: used for pid in pids if (used := _core_seconds(pid)) is not None}


def peak_mb(pid: int) -> float:
    """The most memory a process has held, shared pages included."""
    for line in _read(Path(f"/proc/{pid}/status")).splitlines():
        if line.startswith("VmHWM"):
            return int(line.split()[1]) / 1e3
    return 0.0


def machine_seconds() -> float:
    """The processor time that this whole machine has used so far."""
    fields = _read(Path("/proc/stat")).splitlines()[0].split()[1:]
    user, nice, system, _, _, irq, softirq, steal = map(int, fields[:8])
    return (user + nice + system + irq + softirq + steal) / _TICKS


def end(pid: int, patience_s: float = 8.0) -> None:
    """End a child of this process and all that it started: asked twice, then killed."""
    known = tree(pid)
    for number in (signal.SIGINT, signal.SIGTERM):
        if any(map(_lives, known)):
            _signal([pid], number)
            _wait_for_end(known, patience_s)
    left = set(known).intersection(tree(os.getpid()))  # no stranger with a number used again
    _signal(left, signal.SIGKILL)
    _wait_for_end(left, patience_s)


def _wait_for_end(pids: Iterable[int], seconds: float) -> None:
    deadline = time.monotonic() + seconds
    while True:
        ended = not any(map(_lives, pids))  # looked at first: what is seen to have ended is reaped
        for pid in pids:
            with suppress(OSError):  # not ours, or waited for already
                os.waitpid(pid, os.WNOHANG)
        if ended or time.monotonic() >= deadline:
            return
        time.sleep(0.05)


def _lives(pid: int) -> bool:
    return Path(f"/proc/{pid}").exists() and _state(pid) != "Z"


def _signal(pids: Iterable[int], number: signal.Signals) -> None:
    for pid in pids:
        with suppress(ProcessLookupError):
            os.kill(pid, number)


def _stat(pid: int) -> list[str]:
    """The fields after the name, which may hold anything."""
    return _read(Path(f"/proc/{pid}/stat")).rpartition(")")[2].split()


def _state(pid: int) -> str:
    return (_stat(pid) or ["Z"])[0]


def _core_seconds(pid: int) -> float | None:
    fields = _stat(pid)
    return (int(fields[11]) + int(fields[12])) / _TICKS if fields else None


def _read(path: Path) -> str:
    try:
        return path.read_text(errors="replace")
    except OSError:
        return ""
