"""What the model alone could do on this machine, without HTTP.

Run as: python -m benchmark.engine MODEL. camserve's own float32 trunk and head, and torchvision's
model as it comes, both on batches of eight that lie in memory; and the eight dealt out, a core for
each part, as a busy worker does it. In alternating turns, the median of each. One line of JSON.
"""

import json
import os
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file
from torchvision import models

from app.backbones.manifest import find_manifest
from app.backbones.model import Model
from app.engine.fast import run
from app.types import Job, Pixels
from benchmark.places import MODELS
from benchmark.statistics import median

ROWS = 8
_SECONDS = 12.0  # for all of them together
_MIN_TURNS = 5


def engine_rates(name: str, seconds: float = _SECONDS) -> dict[str, float]:
    """Pictures a second."""
    cores = os.cpu_count() or 1
    torch.set_num_threads(cores)
    model = Model(find_manifest(MODELS, name), torch.device("cpu"))
    module = models.get_model(name, weights=None)
    module.load_state_dict(load_file(MODELS / f"{name}.safetensors"))
    module.eval()
    rng = np.random.default_rng(0)
    pixels = list(rng.integers(0, 256, (ROWS, 224, 224, 3), np.uint8))
    x = model.inputs(pixels)
    plain = x.contiguous()
    cut = model.cut()
    jobs = [_job(p) for p in pixels]
    parts = [jobs[core::cores] for core in range(min(cores, ROWS))]
    drivers = ThreadPoolExecutor(cores, initializer=lambda: torch.set_num_threads(1))

    def dealt_out() -> None:
        list(drivers.map(partial(run, model), parts))
        torch.set_num_threads(cores)  # some of what it says holds for all threads

    return _rates(
        {
            "camserve forward": lambda: cut.forward_head(cut.forward_features(x)),
            "torchvision forward": lambda: module(plain),
            "camserve predict + Grad-CAM": lambda: run(model, jobs),
            "the same, dealt out": dealt_out,
        },
        seconds,
    )


def _rates(functions: dict[str, Callable[[], object]], seconds: float) -> dict[str, float]:
    times: dict[str, list[float]] = {name: [] for name in functions}
    for function in functions.values():
        _seconds(function)  # warm up
    deadline = time.perf_counter() + seconds
    turns = 0
    while turns < _MIN_TURNS or time.perf_counter() < deadline:
        for name, function in functions.items():
            times[name].append(_seconds(function))
        turns += 1
    return {name: ROWS / median(found) for name, found in times.items()}


@torch.no_grad()
def _seconds(function: Callable[[], object]) -> float:
    started = time.perf_counter()
    function()
    return time.perf_counter() - started


def _job(pixels: Pixels) -> Job:
    fields: dict[str, Any] = {"classes": ("top1",), "methods": ("gradcam",), "budget": 1}
    return Job(model="", version="", pixels=pixels, deadline=time.monotonic() + 1e6, **fields)


if __name__ == "__main__":
    print(json.dumps(engine_rates(sys.argv[1])))
