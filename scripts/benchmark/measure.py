"""Measure one cell: the load generator beside the server, and the clocks of all processes."""

import json
import os
import subprocess
import sys
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from benchmark import processes
from benchmark.generator import Spec
from benchmark.places import ROOT
from benchmark.servers import Server
from benchmark.statistics import ceiling, ratio


@dataclass(frozen=True, slots=True)
class Clocks:
    """Processor seconds at a moment: of each process of a server, and of the whole machine."""

    processes: Mapping[int, float]
    machine: float

    @classmethod
    def read(cls, pid: int) -> "Clocks":
        return cls(processes.core_seconds(processes.tree(pid)), processes.machine_seconds())


def measure(server: Server, spec: Spec) -> dict[str, Any]:
    """Figures of one cell: what the generator saw, what the server used, what else was going on."""
    clocks: dict[str, Clocks] = {}
    generator = subprocess.Popen(
        [sys.executable, "-m", "benchmark.generator"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT / "scripts")},
    )
    assert generator.stdin is not None  # noqa: S101 - both are pipes
    assert generator.stdout is not None  # noqa: S101
    try:
        generator.stdin.write(json.dumps(asdict(spec)))
        generator.stdin.close()
        figures: dict[str, Any] = {}
        for line in generator.stdout:
            word = line.strip()
            if word in {"begin", "end"}:
                clocks[word] = Clocks.read(server.pid)
            elif word:
                figures = json.loads(word)
    finally:
        generator.kill()  # it has ended by itself, unless this was interrupted
        generator.wait()
    return figures | usage(clocks["begin"], clocks["end"], figures) | memory(server.pid)


def usage(before: Clocks, after: Clocks, figures: Mapping[str, Any]) -> dict[str, Any]:
    """Core-milliseconds a request by role of the process, and the ceiling that follows from them.

    ``others_s`` is what neither the server nor the generator used, and ``ended`` how many of the
    server's processes did, with what they had used: both should be next to nothing.
    """
    cores, answered = os.cpu_count() or 1, float(figures["answered"])
    used: dict[str, float] = defaultdict(float)
    for pid, seconds in after.processes.items():
        used[processes.role(pid)] += seconds - before.processes.get(pid, 0.0)
    most = ceiling({**used, "generator": figures["generator_s"]}, answered, cores)
    each = {role: ratio(seconds * 1e3, answered) for role, seconds in used.items() if seconds}
    total = after.machine - before.machine
    return {
        "core_ms": each,
        "ceiling": most,
        "others_s": total - sum(used.values()) - figures["generator_s"],
        "ended": len(before.processes.keys() - after.processes.keys()),
    }


def memory(pid: int) -> dict[str, Any]:
    """Peaks by role of the process, in megabytes."""
    peaks: dict[str, float] = defaultdict(float)
    for one in processes.tree(pid):
        peaks[processes.role(one)] += processes.peak_mb(one)
    return {"peak_mb": dict(peaks)}


def spec_of(port: int, path: str, pictures: list[Path], seconds: float) -> Spec:
    """The parts that all cells share."""
    return Spec(port=port, path=path, pictures=[str(p) for p in pictures], seconds=seconds)
