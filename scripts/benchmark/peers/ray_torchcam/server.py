"""Ray Serve around torchcam: ``@serve.batch`` in a deployment, its batches in a thread."""

import asyncio
import os
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import ray  # type: ignore[import-not-found]
from PIL.Image import Image
from ray import serve
from starlette.requests import Request

from benchmark.peers import common

# The best of a few points of scripts/bench --sweep (resnet50, two cores); not the whole grid.
TUNING = common.Tuning.read(common.Tuning(workers=2, threads=1, batch=8, wait_ms=5))
BATCHED = {"max_batch_size": TUNING.batch, "batch_wait_timeout_s": TUNING.wait_ms / 1e3}


@serve.deployment(
    num_replicas=TUNING.workers, max_ongoing_requests=128, ray_actor_options={"num_cpus": 0.5}
)
class Classifier:
    """Raw JPEG bodies; the path says what is asked for."""

    def __init__(self) -> None:
        from benchmark.peers.torchcam_model import Model

        self.model = Model(TUNING.threads)
        self.runner = ThreadPoolExecutor(1)  # torch keeps its threads for one calling thread

    async def __call__(self, request: Request) -> dict[str, Any]:
        picture, tensor = await asyncio.to_thread(read, await request.body())
        if request.url.path == "/predict":
            return {"predictions": await self.predict(tensor)}
        predictions, cam = await self.explain(tensor)
        return await asyncio.to_thread(common.explained, predictions, cam, picture)

    @serve.batch(**BATCHED)  # type: ignore[untyped-decorator]
    async def predict(self, inputs: list[Any]) -> list[Any]:
        return list(await self.run(self.model.predict, inputs))

    @serve.batch(**BATCHED)  # type: ignore[untyped-decorator]
    async def explain(self, inputs: list[Any]) -> list[Any]:
        return list(await self.run(self.model.explain, inputs))

    async def run(self, function: Any, inputs: list[Any]) -> Any:  # noqa: ANN401 - either
        return await asyncio.get_running_loop().run_in_executor(self.runner, function, inputs)


def read(body: bytes) -> tuple[Image, Any]:
    picture = common.decode(body)
    return picture, common.prepare(picture)


if __name__ == "__main__":
    ray.init(
        num_cpus=os.cpu_count(),
        include_dashboard=False,
        _temp_dir=os.environ["BENCH_TEMP"],
        log_to_driver=True,
    )
    serve.start(http_options={"host": "127.0.0.1", "port": common.port()})
    serve.run(Classifier.bind(), route_prefix="/")  # type: ignore[attr-defined]
    while True:
        time.sleep(3600)
