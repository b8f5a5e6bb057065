"""BentoML around torchcam: a service that decodes and draws, and one behind it that batches.

As its documentation has it for single inputs: a batchable API takes lists, so a wrapper calls it.
"""

import asyncio
from typing import Any

import bentoml  # type: ignore[import-not-found]
import numpy as np
import torch
from numpy.typing import NDArray
from PIL.Image import Image

from benchmark.peers import common
from benchmark.peers.torchcam_model import Model

# Found by scripts/bench --sweep --peers bentoml_torchcam --models resnet50 --seconds 4, two cores.
TUNING = common.Tuning.read(common.Tuning(workers=1, threads=2, batch=8))
BATCHED = {
    "batchable": True,
    "max_batch_size": TUNING.batch,
    "max_latency_ms": 60_000,  # a batch is never given up: its callers wait
}
QUIET: dict[str, Any] = {"traffic": {"timeout": 120}, "logging": {"access": {"enabled": False}}}


@bentoml.service(workers=TUNING.workers, **QUIET)
class Batches:
    """[N, 3, 224, 224] → a list of what was found."""

    def __init__(self) -> None:
        self.model = Model(TUNING.threads)

    @bentoml.api(**BATCHED)  # type: ignore[untyped-decorator]
    def predict(self, inputs: NDArray[np.float32]) -> list[Any]:
        return list(self.model.predict(list(torch.from_numpy(inputs))))

    @bentoml.api(**BATCHED)  # type: ignore[untyped-decorator]
    def explain(self, inputs: NDArray[np.float32]) -> list[Any]:
        return list(self.model.explain(list(torch.from_numpy(inputs))))


@bentoml.service(workers=1, **QUIET)
class Classifier:
    """Raw JPEG bodies."""

    batches = bentoml.depends(Batches)

    @bentoml.api(route="/predict")  # type: ignore[untyped-decorator]
    async def predict(self, image: Image, /) -> dict[str, Any]:
        _, tensor = await asyncio.to_thread(read, image)
        (found,) = await self.batches.to_async.predict(tensor)
        return {"predictions": found}

    @bentoml.api(route="/explain")  # type: ignore[untyped-decorator]
    async def explain(self, image: Image, /) -> dict[str, Any]:
        picture, tensor = await asyncio.to_thread(read, image)
        ((predictions, cam),) = await self.batches.to_async.explain(tensor)
        drawn = common.explained
        return await asyncio.to_thread(drawn, predictions, np.asarray(cam, np.float32), picture)


def read(image: Image) -> tuple[Image, NDArray[np.float32]]:
    picture = image.convert("RGB")
    return picture, common.prepare(picture)[None].numpy()
