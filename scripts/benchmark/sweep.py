"""Each peer's best settings on this machine: a small grid, a start of the server for each."""

import itertools
import os
from collections.abc import Sequence
from typing import Any

from benchmark.cells import Cell
from benchmark.contenders import CONTENDERS
from benchmark.pictures import make_pictures
from benchmark.places import WORK
from benchmark.rounds import measure_cell
from benchmark.servers import ServerFailed, serving

Tuning = tuple[int, int, int, int]  # workers, threads of torch in each, batch size, wait in ms

_BATCHES, _WAITS = (8, 16), (0, 5)
_PLAIN, _ADAPTIVE = "fastapi_grad_cam", "bentoml_torchcam"


def grid(peer: str, cores: int) -> list[Tuning]:
    """One worker with all cores, one that leaves a core to what decodes and draws, one a core."""
    shapes = sorted({(1, cores), (1, max(1, cores - 1)), (cores, 1)})
    if peer == _PLAIN:
        return [(*shape, 1, 0) for shape in shapes]
    waits = (0,) if peer == _ADAPTIVE else _WAITS  # BentoML finds its waits by itself
    points = itertools.product(shapes, _BATCHES, waits)
    return [(*shape, batch, wait) for shape, batch, wait in points]


def sweep(peer: str, model: str, cell: Cell, seconds: float) -> list[dict[str, Any]]:
    """Rates of all points, the best first."""
    found = []
    for tuning in grid(peer, os.cpu_count() or 1):
        rate, p99 = _try(peer, model, cell, seconds, tuning)
        print(f"{peer}, {model}: workers, threads, batch, wait {tuning}: {rate:.2f}/s", flush=True)
        found.append({"peer": peer, "model": model, "tuning": tuning, "rate": rate, "p99": p99})
    return sorted(found, key=lambda point: -point["rate"])


def _try(
    peer: str, model: str, cell: Cell, seconds: float, tuning: Sequence[int]
) -> tuple[float, float]:
    picture = make_pictures(WORK / "pictures", cell.picture)[0].read_bytes()
    environment = {"BENCH_TUNING": ",".join(map(str, tuning))}
    try:
        with serving(CONTENDERS[peer], model, cell.what, picture, environment) as server:
            figures = measure_cell(server, cell, seconds, {})
    except ServerFailed as exc:
        print(exc)
        return 0.0, 0.0
    return figures["rate"], figures["latency_ms"]["p99"]
