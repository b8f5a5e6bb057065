"""What a GPU alone can do, without HTTP.

Run as: python -m benchmark.gpu_engine MODEL. One line of JSON for each figure, pictures a second:

  compiled forward    torchvision's model by torch.compile, as a CUDA graph, its input on the GPU
  own forward         camserve's trunk and head, its input on the GPU
  engine              uint8 pictures in the host's memory → scores and Grad-CAM there, as a worker
                      does it: batches in as many threads as it has drivers
"""

import json
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file
from torch import Tensor, nn
from torchvision import models

from app.backbones.manifest import find_manifest
from app.backbones.model import Loading, Model
from app.engine.device import Device
from app.engine.fast import run
from app.types import Job, Precision
from benchmark.places import MODELS
from benchmark.statistics import median

ROWS = (1, 16, 64)
PRECISIONS: tuple[Precision, ...] = ("bf16", "fp16", "fp32")
COMPARED: Precision = "bf16"  # with torch.compile
_TYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
_DEVICE = torch.device("cuda:0")
_TURNS = 3
_SECONDS = 0.4  # each
_WARM_UPS = 3
_SETTLE_S, _ENGINE_S = 0.5, 1.5  # of drivers, before and while they are measured


def figures(name: str) -> Iterator[dict[str, Any]]:
    """All of one model."""
    for precision in PRECISIONS:
        model = _load(name, precision)
        for rows in ROWS:
            yield _figure(precision, rows, "own forward", own_forward(model, rows))
            yield _figure(precision, rows, "engine", engine(model, rows))
        del model
    rows = ROWS[-1]
    yield _figure(COMPARED, rows, "compiled forward", compiled_forward(name, rows))


def _figure(precision: str, rows: int, what: str, rate: float) -> dict[str, Any]:
    return {"precision": precision, "rows": rows, "what": what, "rate": rate}


@torch.no_grad()
def compiled_forward(name: str, rows: int) -> float:
    """Torchvision's model, its batch norms folded by the compiler."""
    import torch._inductor.config as inductor

    inductor.freezing = True
    dtype = _TYPES[COMPARED]
    module: nn.Module = models.get_model(name, weights=None)
    module.load_state_dict(load_file(MODELS / f"{name}.safetensors"))
    module = module.eval().to(_DEVICE, dtype).to(memory_format=torch.channels_last)
    compiled = torch.compile(module)
    x = _input(rows, _DEVICE).to(dtype)
    for _ in range(_WARM_UPS):
        compiled(x)
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        compiled(x)
    return rows * _rate(graph.replay)


@torch.no_grad()
def own_forward(model: Model, rows: int) -> float:
    """The trunk as CUDA graphs, and the head behind it."""
    x, cut = _input(rows, model.device), model.cut()
    return rows * _rate(lambda: cut.forward_head(cut.forward_features(x).float()))


def _input(rows: int, device: torch.device) -> Tensor:
    return torch.rand(rows, 3, 224, 224, device=device).to(memory_format=torch.channels_last)


def _rate(launch: Callable[[], object]) -> float:
    """Launches a second, none of them waited for; the median of a few turns."""
    found = []
    for _ in range(_WARM_UPS):
        launch()
    for _ in range(_TURNS):
        torch.cuda.synchronize()
        started, count = time.perf_counter(), 0
        while time.perf_counter() < started + _SECONDS:
            launch()
            count += 1
            if count % 8 == 0:  # the GPU's queue must not grow for ever
                torch.cuda.synchronize()
        torch.cuda.synchronize()
        found.append(count / (time.perf_counter() - started))
    return median(found)


def engine(model: Model, rows: int) -> float:
    """Jobs in, results out."""
    device = Device(model.device)
    rng = np.random.default_rng(0)
    pixels = rng.integers(0, 256, (rows, 224, 224, 3), np.uint8)
    job = Job(
        model="", version="", pixels=pixels[0], deadline=time.monotonic() + 1e6,
        classes=("top1",), methods=("gradcam",), budget=1,
    )  # fmt: skip
    jobs = [replace(job, pixels=p) for p in pixels]
    ends: list[float] = []
    stop = threading.Event()

    def drive() -> None:
        device.use_cores(1)
        while not stop.is_set():
            with device.turn():
                run(model, jobs)
            ends.append(time.perf_counter())

    threads = [threading.Thread(target=drive) for _ in range(device.sharing(rows).drivers)]
    for thread in threads:
        thread.start()
    time.sleep(_SETTLE_S)  # a stream's first batches allocate its memory
    begin = time.perf_counter()
    time.sleep(_ENGINE_S)
    end = time.perf_counter()
    stop.set()
    for thread in threads:
        thread.join()
    return rows * sum(begin <= moment < end for moment in ends) / (end - begin)


def _load(name: str, precision: Precision) -> Model:
    loading = Loading(precision=precision, rows=ROWS[-1])
    return Model(find_manifest(MODELS, name), _DEVICE, loading)


if __name__ == "__main__":
    for figure in figures(sys.argv[1]):
        print(json.dumps(figure), flush=True)
