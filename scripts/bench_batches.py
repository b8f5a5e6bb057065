"""Pictures a second by the number of rows in a batch, where every core runs batches of its own.

Run as: .venv/bin/python scripts/bench_batches.py MODEL [--fused] [--precision bf16] [--rows 1,2]

Scores and Grad-CAM, a driver on each core, as in a worker that is busy on two to four of them
(``app/engine/sharing.py``), but each batch has the given number of rows. The trunk is compiled,
unless --fused says otherwise. In alternating turns, the median of each. MODEL is one that
``scripts/bench`` compares; its weights are made where they are missing.
"""

import argparse
import os
import statistics
import sys
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

import numpy as np
import torch

ROOT = Path(__file__).parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "scripts")]

from benchmark.engine import cores_of_worker, like_a_worker, use_programs  # noqa: E402
from benchmark.places import MODELS  # noqa: E402
from benchmark.weights import NAMES, make_models  # noqa: E402

from app.backbones.manifest import find_manifest  # noqa: E402 - from the folders above
from app.backbones.model import Loading, Model  # noqa: E402
from app.engine.fast import run  # noqa: E402
from app.types import Job  # noqa: E402

CORES = os.cpu_count() or 1


def main() -> None:
    """Measure, and print a line for each number of rows."""
    like_a_worker()
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model", choices=NAMES)
    parser.add_argument("--precision", choices=("fp32", "bf16"), default="fp32")
    parser.add_argument("--fused", action="store_true", help="as it is before it is compiled")
    parser.add_argument("--rows", default="1,2,3,4,6,8,12,16")
    parser.add_argument("--turns", type=int, default=7)
    parser.add_argument("--seconds", type=float, default=1.5, help="of each turn")
    arguments = parser.parse_args()
    make_models(MODELS, (arguments.model,))
    rows = [int(number) for number in arguments.rows.split(",")]
    rates: dict[int, list[float]] = {number: [] for number in rows}
    with ThreadPoolExecutor(1) as loading:  # it ends, and OpenMP's threads with it
        loaded = loading.submit(load, arguments.model, Loading(precision=arguments.precision))
    model = loaded.result()
    if not arguments.fused:
        use_programs(model, cores_of_worker())
    with ThreadPoolExecutor(CORES, initializer=partial(torch.set_num_threads, 1)) as drivers:
        for turn in range(arguments.turns + 1):
            for number in rows:
                found = rate(drivers, model, number, arguments.seconds if turn else 0)
                rates[number] += [found] if turn else []  # the first one chooses kernels
    for number, found_rates in rates.items():
        print(f"{number:3} rows {statistics.median(found_rates):8.1f} pictures/s"
              f"   {min(found_rates):.1f} to {max(found_rates):.1f}")  # fmt: skip


def load(name: str, loading: Loading) -> Model:
    """A ready model on the processor."""
    return Model(find_manifest(MODELS, name), torch.device("cpu"), loading)


def rate(drivers: ThreadPoolExecutor, model: Model, rows: int, seconds: float) -> float:
    """Pictures a second of all drivers together; each runs one batch at least."""
    height, width = model.preprocess.crop
    pixels = np.random.default_rng(0).integers(0, 256, (height, width, 3), np.uint8)
    job = Job(
        model="", version="", pixels=pixels, deadline=0, classes=("top1",), methods=("gradcam",)
    )
    until = time.perf_counter() + seconds
    turns = [drivers.submit(drive, model, [job] * rows, until) for _ in range(CORES)]
    return sum(turn.result() for turn in turns)


def drive(model: Model, jobs: Sequence[Job], until: float) -> float:
    """Pictures a second of one driver."""
    started, count = time.perf_counter(), 0
    while count == 0 or time.perf_counter() < until:
        run(model, jobs)
        count += 1
    return count * len(jobs) / (time.perf_counter() - started)


if __name__ == "__main__":
    main()
