"""An engine without models: its numbers are plain arithmetic on the pixels."""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Literal

import numpy as np

from app.types import (
    Catalogue,
    ClassMap,
    Job,
    JobResult,
    LayerInfo,
    Map,
    MethodInfo,
    ModelInfo,
    Pixels,
    Preprocess,
    Progress,
)

SIDE = 32
_PREPROCESS = Preprocess(resize=SIDE, crop=(SIDE, SIDE), mean=(0, 0, 0), std=(1, 1, 1))


def _method(name: str, lane: Literal["fast", "slow"] = "fast") -> MethodInfo:
    return MethodInfo(
        name=name,
        title=name.upper(),
        paper="https://example.org/paper",
        lane=lane,
        needs=("activations", "gradients"),
        cost="one pass",
    )


def ready_model(
    name: str, labels: tuple[str, ...], methods: tuple[str, ...] = ("gradcam",)
) -> ModelInfo:
    """A model that answers."""
    return ModelInfo(
        name=name,
        state="ready",
        version=f"sha256:{name}",
        labels=labels,
        preprocess=_PREPROCESS,
        layer="deep",
        layers=(
            LayerInfo(name="deep", grid=(4, 4), aliases=("deep.1",)),
            LayerInfo(name="shallow", grid=(8, 8)),
        ),
        methods=methods,
    )


COLOURS = ready_model("colours", ("red", "bright green", "blue"), ("gradcam", "layercam", "lime"))
TWINS = ready_model("twins", ("crane", "heron", "crane"))  # a bird and a machine
LATE = ModelInfo(name="late", state="loading")
BROKEN = ModelInfo(name="broken", state="failed", error="head(features(x)) is not model(x)")
SHELVED = ModelInfo(name="shelved", state="unloaded")
CATALOGUE = Catalogue(
    device="fake",
    torch="0.0",
    models=(COLOURS, TWINS, LATE, BROKEN, SHELVED),
    methods=(_method("gradcam"), _method("layercam"), _method("lime", "slow")),
)


@dataclass
class FakeEngine:
    """Scores a picture by how red, green and blue it is, and maps where it is so.

    ``begun`` is set when a job comes; ``gate`` holds jobs up until it is set; ``error`` is raised
    instead of an answer.
    """

    known: list[Catalogue] = field(default_factory=lambda: [CATALOGUE])
    jobs: list[Job] = field(default_factory=list)
    cancelled: list[Job] = field(default_factory=list)
    begun: asyncio.Event = field(default_factory=asyncio.Event)
    gate: asyncio.Event | None = None
    error: Exception | None = None

    def catalogues(self) -> list[Catalogue]:
        return self.known

    async def submit(
        self, job: Job, on_progress: Callable[[Progress], None] | None = None
    ) -> JobResult:
        self.jobs.append(job)
        if job.slow and on_progress:
            for done in range(3):
                on_progress(Progress(done, 3))
        self.begun.set()
        try:
            if self.gate:
                await self.gate.wait()
        except asyncio.CancelledError:
            self.cancelled.append(job)
            raise
        if self.error:
            raise self.error
        return compute(job)


def compute(job: Job) -> JobResult:
    """What the fake models say."""
    logits = job.pixels.mean(axis=(0, 1), dtype=np.float32) / 16  # [3]
    exponents = np.exp(logits - logits.max())
    ranking = np.argsort(-logits, kind="stable").tolist()
    picked: list[int] = []
    for entry in job.classes:
        picked += [entry] if isinstance(entry, int) else ranking[: int(entry.removeprefix("top"))]
    layer = ",".join(job.layers) or "deep"
    maps = tuple(
        ClassMap(index=index, method=method, layer=layer, values=_map(job.pixels, index, layer))
        for method in job.methods
        for index in picked
    )
    timings = {"queue": 0.1, "forward": 1.0}
    return JobResult(logits=logits, scores=exponents / exponents.sum(), maps=maps, timings=timings)


def _map(pixels: Pixels, channel: int, layer: str) -> Map:
    cells = 4 if layer == "deep" else 8
    side = SIDE // cells
    pooled = pixels[:, :, channel].reshape(cells, side, cells, side).mean(axis=(1, 3))
    values: Map = (pooled / 255 - 0.5).astype(np.float32)
    return values
