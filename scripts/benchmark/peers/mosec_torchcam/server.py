"""mosec around torchcam: stages that decode, run batches, and draw, each in its own processes."""

import sys
from typing import Any

import numpy as np
import torch
from mosec import Runtime, Server, Worker  # type: ignore[import-not-found]
from PIL import Image

from benchmark.peers import common
from benchmark.peers.torchcam_model import Model

# The best of a few points of scripts/bench --sweep (resnet50, two cores); not the whole grid.
TUNING = common.Tuning.read(common.Tuning(workers=1, threads=2, batch=8))


class Read(Worker):  # type: ignore[misc]
    """A raw JPEG body → the picture's pixels, no larger than needed, and the model's input."""

    def __init__(self) -> None:
        super().__init__()
        torch.set_num_threads(1)  # there are several of these: the cores are taken

    def deserialize(self, data: bytes) -> bytes:
        return data

    def forward(self, data: bytes) -> Any:  # noqa: ANN401 - what travels between stages
        picture = common.decode(data)
        tensor = common.prepare(picture).numpy()
        picture.thumbnail((common.LONGEST, common.LONGEST), Image.Resampling.BILINEAR)
        return tensor, np.asarray(picture)


class Predict(Worker):  # type: ignore[misc]
    """A batch of inputs → a batch of what was found."""

    def __init__(self) -> None:
        super().__init__()
        self.model = Model(TUNING.threads)

    def forward(self, data: list[Any]) -> list[Any]:
        return [{"predictions": found} for found in self.model.predict(tensors(data))]


class Explain(Predict):
    """The same with maps."""

    def forward(self, data: list[Any]) -> list[Any]:
        explained = self.model.explain(tensors(data))
        return [(*found, pixels) for found, (_, pixels) in zip(explained, data, strict=True)]


class Draw(Worker):  # type: ignore[misc]
    """Scores, a map and the picture → the answer."""

    def forward(self, data: Any) -> dict[str, object]:  # noqa: ANN401
        predictions, cam, pixels = data
        return common.explained(predictions, cam, Image.fromarray(pixels))


def tensors(data: list[Any]) -> list[torch.Tensor]:
    return [torch.from_numpy(tensor) for tensor, _ in data]


def batches(worker: type[Worker]) -> Runtime:
    return Runtime(
        worker,
        num=TUNING.workers,
        max_batch_size=TUNING.batch,
        max_wait_time=int(TUNING.wait_ms),
        timeout=120,
    )


if __name__ == "__main__":
    sys.argv[1:] = ["--port", str(common.port()), "--address", "127.0.0.1", "--timeout", "120000"]
    server = Server()
    server.register_runtime(
        {
            "/predict": [Runtime(Read, num=2), batches(Predict)],
            "/explain": [Runtime(Read, num=2), batches(Explain), Runtime(Draw, num=1)],
        }
    )
    server.run()
