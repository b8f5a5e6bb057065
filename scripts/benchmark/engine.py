"""What the model alone could do on this machine, without HTTP.

Run as: python -m benchmark.engine MODEL. camserve's compiled float32 trunk and its head, alone and
with Grad-CAM, and torchvision's model as it comes, all on eight pictures that lie in memory:
camserve's are dealt out, a core for each part, as a busy worker does it. And one picture by all
cores. In turns, the median of each. One line of JSON.
"""

import json
import os
import random
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file
from torch import Tensor
from torchvision import models

from app.backbones.cores import Cores
from app.backbones.manifest import find_manifest
from app.backbones.model import Model
from app.backbones.program import convert, load_warm
from app.engine.environment import environment
from app.engine.fast import run
from app.engine.sharing import SharedCores
from app.types import Job, Pixels
from benchmark.places import MODELS
from benchmark.statistics import median

ROWS = 8
_LARGEST = 16  # batch, camserve's default
_SECONDS = 12.0  # for all of them together
_MIN_TURNS = 5


def engine_rates(name: str, seconds: float = _SECONDS) -> dict[str, float]:
    """Pictures a second."""
    cores = cores_of_worker()
    torch.set_num_threads(cores.all)
    model = Model(find_manifest(MODELS, name), torch.device("cpu"))
    use_programs(model, cores)
    module = models.get_model(name, weights=None)
    module.load_state_dict(load_file(MODELS / f"{name}.safetensors"))
    module.eval()
    rng = np.random.default_rng(0)
    pixels = list(rng.integers(0, 256, (ROWS, 224, 224, 3), np.uint8))
    x = model.inputs(pixels)
    plain = x.contiguous()
    jobs = [_job(p) for p in pixels]
    drivers = ThreadPoolExecutor(
        cores.drivers, initializer=partial(torch.set_num_threads, cores.share)
    )

    def dealt_out(function: Callable[[Any], object], rows: Sequence[Any] | Tensor) -> None:
        parts = [rows[driver :: cores.drivers] for driver in range(cores.drivers)]
        list(drivers.map(function, parts))
        torch.set_num_threads(cores.all)  # some of what they say holds for all threads

    forward, explain = partial(_forward, model), partial(run, model)
    return _rates(
        {
            "camserve forward": (ROWS, lambda: dealt_out(forward, x)),
            "torchvision forward": (ROWS, lambda: module(plain)),
            "camserve predict + Grad-CAM": (ROWS, lambda: dealt_out(explain, jobs)),
            "forward of one picture": (1, lambda: forward(x[:1])),
            "predict + Grad-CAM of one": (1, lambda: explain(jobs[:1])),
        },
        seconds,
    )


def like_a_worker() -> None:
    """Begin again with a worker's environment, which a process must find at its start."""
    wanted = environment("worker")
    if dict(os.environ) != wanted:
        os.execve(sys.executable, sys.orig_argv, wanted)  # noqa: S606 - ourselves


def cores_of_worker() -> Cores:
    """Of this machine's only one."""
    count = os.cpu_count() or 1
    return Cores(count, SharedCores(_LARGEST, count).drivers)


def use_programs(model: Model, cores: Cores) -> None:
    """Compile it, and let it use all of that."""
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "trunk.xml"
        convert(model.portable_trunk(), model.example(2), file)
        model.use(load_warm(file, cores.kinds, model.precision, cores, ROWS), cores)


@torch.no_grad()
def _forward(model: Model, x: Tensor) -> None:
    cut = model.cut()
    cut.forward_head(cut.forward_features(x))


def _rates(
    functions: dict[str, tuple[int, Callable[[], object]]], seconds: float
) -> dict[str, float]:
    """By name: so many pictures, and what takes them."""
    times: dict[str, list[float]] = {name: [] for name in functions}
    for _, function in functions.values():
        _seconds(function)  # warm up
    deadline = time.perf_counter() + seconds
    turns = 0
    order, rng = list(functions), random.Random(0)  # noqa: S311 - what may be guessed
    while turns < _MIN_TURNS or time.perf_counter() < deadline:
        rng.shuffle(order)  # what follows two busy cores is a tenth faster than what comes next
        for name in order:
            times[name].append(_seconds(functions[name][1]))
        turns += 1
    return {name: functions[name][0] / median(found) for name, found in times.items()}


@torch.no_grad()
def _seconds(function: Callable[[], object]) -> float:
    started = time.perf_counter()
    function()
    return time.perf_counter() - started


def _job(pixels: Pixels) -> Job:
    fields: dict[str, Any] = {"classes": ("top1",), "methods": ("gradcam",), "budget": 1}
    return Job(model="", version="", pixels=pixels, deadline=time.monotonic() + 1e6, **fields)


if __name__ == "__main__":
    like_a_worker()
    print(json.dumps(engine_rates(sys.argv[1])))
