"""LitServe around torchcam: its batches; decoding in the worker, in LitServe's own pool of threads.

One kind of request a server: a second API would be a second set of workers, which poll.
"""

import os
from concurrent.futures import ThreadPoolExecutor
from typing import Annotated, Any

import litserve as ls  # type: ignore[import-not-found]
from fastapi import Body
from PIL.Image import Image

from benchmark.peers import common
from benchmark.peers.torchcam_model import Model

# Found by scripts/bench --sweep --peers litserve_torchcam --models resnet50 --seconds 4, two cores.
TUNING = common.Tuning.read(common.Tuning(workers=1, threads=2, batch=8))
EXPLAIN = os.environ["BENCH_WHAT"] == "explain"


class Classifier(ls.LitAPI):  # type: ignore[misc]
    """Batches of raw JPEG bodies."""

    def setup(self, device: str) -> None:  # noqa: ARG002 - the CPU
        self.model = Model(TUNING.threads)
        self.pool = ThreadPoolExecutor(os.cpu_count())

    def decode_request(self, request: Annotated[bytes, Body(media_type="image/jpeg")]) -> bytes:
        return request

    def batch(self, inputs: list[bytes]) -> list[Any]:
        """Decoded side by side: ``decode_request`` is called for one after the other."""
        return list(self.pool.map(read, inputs))

    def predict(self, inputs: list[Any]) -> list[Any]:
        tensors = [tensor for _, tensor in inputs]
        if not EXPLAIN:
            return [{"predictions": found} for found in self.model.predict(tensors)]
        explained = self.model.explain(tensors)
        return list(self.pool.map(draw, explained, [picture for picture, _ in inputs]))

    def unbatch(self, output: list[Any]) -> list[Any]:
        return output

    def encode_response(self, output: dict[str, object]) -> dict[str, object]:
        return output


def read(body: bytes) -> tuple[Any, Any]:
    picture = common.decode(body)
    return picture, common.prepare(picture)


def draw(found: tuple[Any, Any], picture: Image) -> dict[str, object]:
    return common.explained(*found, picture)


if __name__ == "__main__":
    api = Classifier(
        max_batch_size=max(2, TUNING.batch),
        batch_timeout=TUNING.wait_ms / 1e3,
        api_path=f"/{os.environ['BENCH_WHAT']}",
    )
    server = ls.LitServer(
        api, accelerator="cpu", workers_per_device=TUNING.workers, timeout=120, fast_queue=True
    )
    server.run(
        host="127.0.0.1", port=common.port(), generate_client_file=False, log_level="warning"
    )
