"""FastAPI around pytorch-grad-cam: no batches. Threads read and draw; one thread owns the model.

``GradCAM`` keeps state, so requests must not share it; a pool of threads that call torch would
also give each of them its own OpenMP threads, and lose most of the rate.

uvicorn ends a worker that is silent for 5 s, and starts another one. Two that import torch on two
busy cores are silent for longer: without a longer time one of them never gets ready.
"""

import asyncio
from concurrent.futures import ThreadPoolExecutor

import torch
import uvicorn
from fastapi import FastAPI, Request
from PIL.Image import Image
from pytorch_grad_cam import GradCAM
from torch import Tensor

from benchmark.peers import common

# Found by scripts/bench --sweep --peers fastapi_grad_cam --models resnet50 --seconds 4, two cores.
TUNING = common.Tuning.read(common.Tuning(workers=2, threads=1))

_HEALTHCHECK_S = 120

app = FastAPI()
runner = ThreadPoolExecutor(1)
model = common.load_model(TUNING.threads)
layers = [model.get_submodule(common.target_layer())]


@app.post("/predict")
async def predict(request: Request) -> dict[str, object]:
    _, tensor = await asyncio.to_thread(read, await request.body())
    logits = await asyncio.get_running_loop().run_in_executor(runner, forward, tensor)
    return {"predictions": common.top(logits)}


@app.post("/explain")
async def explain(request: Request) -> dict[str, object]:
    picture, tensor = await asyncio.to_thread(read, await request.body())
    logits, cam = await asyncio.get_running_loop().run_in_executor(runner, grad_cam, tensor)
    return await asyncio.to_thread(common.explained, common.top(logits), cam, picture)


def read(body: bytes) -> tuple[Image, Tensor]:
    picture = common.decode(body)
    return picture, common.prepare(picture)[None]


def forward(x: Tensor) -> Tensor:
    with torch.inference_mode():
        row: Tensor = model(x)[0]
        return row


def grad_cam(x: Tensor) -> tuple[Tensor, common.Map]:
    """The library runs the model, and keeps its outputs: no second forward for the scores."""
    with GradCAM(model=model, target_layers=layers, reshape_transform=common.reshape()) as cam:
        found: common.Map = cam(input_tensor=x, targets=None)[0]  # [224, 224], scaled to [0, 1]
        return cam.outputs[0].detach(), found


if __name__ == "__main__":
    uvicorn.run(
        "benchmark.peers.fastapi_grad_cam.server:app" if TUNING.workers > 1 else app,
        host="127.0.0.1",
        port=common.port(),
        workers=TUNING.workers,
        timeout_worker_healthcheck=_HEALTHCHECK_S,
        log_level="warning",
        access_log=False,
    )
