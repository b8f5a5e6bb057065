"""The model-randomisation test (Adebayo et al. 2018, https://arxiv.org/abs/1810.03292).

Layers lose what they have learned, from the last one to the first. A map that stays the same
meanwhile shows the picture, not the model.
"""

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from scipy import stats
from torch import nn

from app.backbones.model import Model
from app.engine.batching import Outcome
from app.engine.fast import run
from app.engine.slow import finish, run_slowly
from app.explain.registry import every_info
from app.imaging.geometry import shrink
from app.types import Job, JobResult, Map, MethodInfo, Pixels

STAGES = (0.25, 0.5, 1.0)  # of the layers; before them, the classifier alone
LIMIT = 0.5  # a mean rank correlation above it, with nothing learned left, fails

_COARSE = 28  # cells on a side: single pixels of two maps have little to do with each other
_SLICE = 8
_SHARED = {"activations", "gradients"}


@dataclass(frozen=True, slots=True)
class Sanity:
    """Of a method the mean Spearman correlation with the whole model's map, stage by stage."""

    method: str
    correlations: tuple[float, ...]

    @property
    def passes(self) -> bool:
        """Whether the map changed with the model."""
        return abs(self.correlations[-1]) <= LIMIT


def sanity(
    model: Model,
    methods: Sequence[str],
    pictures: Sequence[Pixels],
    budget: int,
    on_map: Callable[[], None] = lambda: None,
) -> list[Sanity]:
    """Test methods on a model, which has lost its weights afterwards.

    Args:
        model: loaded for this alone.
        methods: that suit it.
        pictures: of its input size.
        budget: passes for each map.
        on_map: called after each.
    """
    if not model.follows_weights:
        raise ValueError("the model's trunk holds copies of its weights")
    classes = [int(_whole(run(model, [_job(p)])[0]).logits.argmax()) for p in pictures]

    def maps() -> dict[str, list[Map]]:
        return {name: list(_maps(model, name, pictures, classes, budget, on_map))
                for name in methods}  # fmt: skip

    before = maps()
    stages = [maps() for _ in _cascade(model.module)]
    return [
        Sanity(name, tuple(_similarity(before[name], stage[name]) for stage in stages))
        for name in methods
    ]


def _cascade(module: nn.Module) -> Iterator[None]:
    """Draw the weights of ever more layers anew, the last ones first."""
    layers = [m for m in module.modules() if hasattr(m, "reset_parameters")]
    done = 0
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        for upto in (1, *(round(len(layers) * share) for share in STAGES)):
            for layer in layers[len(layers) - upto : len(layers) - done]:
                layer.reset_parameters()  # type: ignore[operator]
            done = max(done, upto)
            yield


def _maps(
    model: Model,
    method: str,
    pictures: Sequence[Pixels],
    classes: Sequence[int],
    budget: int,
    on_map: Callable[[], None],
) -> Iterator[Map]:
    info = every_info()[method]
    for pixels, index in zip(pictures, classes, strict=True):
        result = _whole(_explain(model, _job(pixels, info, index, budget)))
        yield shrink(np.maximum(result.maps[0].values, 0), _COARSE)
        on_map()


def _job(pixels: Pixels, info: MethodInfo | None = None, index: int = 0, budget: int = 0) -> Job:
    plain = Job(model="", version="", pixels=pixels, deadline=time.monotonic() + 3600)
    if info is None:
        return plain
    needs = tuple(sorted(set(info.needs) - _SHARED)) if info.lane == "fast" else ()
    return Job(
        model="",
        version="",
        pixels=pixels,
        deadline=plain.deadline,
        classes=(index,),
        methods=(info.name,),
        needs=needs,
        slow=info.lane == "slow",
        budget=budget,
    )


def _explain(model: Model, job: Job) -> Outcome:
    if not job.slow:
        return run(model, [job])[0]
    return finish(run_slowly(model, job, _SLICE))


def _whole(outcome: Outcome) -> JobResult:
    if isinstance(outcome, JobResult):
        return outcome
    raise outcome


def _similarity(before: Sequence[Map], after: Sequence[Map]) -> float:
    """Mean rank correlation; a map without relief is like no other."""
    pairs = zip(before, after, strict=True)
    return float(np.mean([_spearman(a, b) for a, b in pairs]))


def _spearman(one: Map, other: Map) -> float:
    if np.ptp(one) == 0 or np.ptp(other) == 0:
        return 0.0
    return float(stats.spearmanr(one.ravel(), other.ravel()).statistic)
