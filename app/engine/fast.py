"""A batch in one pass: pictures in; scores, and the maps of the fast methods out."""

import re
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache

import numpy as np
import torch
from torch import Tensor

from app.backbones.model import Model
from app.backbones.parts import Cut
from app.engine.batching import Outcome
from app.engine.evidence import Evidence, Objectives
from app.errors import NonFiniteOutput
from app.explain.registry import Method, Numbers, Objective, SlowMethod, methods
from app.options import POSITIVE
from app.types import ClassMap, Floats, Job, JobResult


def run(model: Model, jobs: Sequence[Job]) -> list[Outcome]:
    """Run rows that share a model, layers and needs: one trunk pass, one head pass, few gradients.

    Rows mix freely: predict only, one class or several, one method or several. A row whose numbers
    are not finite fails alone.

    Args:
        model: a ready model.
        jobs: at least one; all of the same layers and needs.

    Returns:
        An outcome for each job, in order.
    """
    started = time.perf_counter()
    evidence = Evidence(
        model,
        model.cut(*jobs[0].layers),
        model.inputs.stack([job.pixels for job in jobs]),
        differentiable=any(job.methods for job in jobs),
    )
    (answers,) = _fetch([evidence.answers])  # [N, 2, classes]
    plans = [
        _plan(job, logits, class_indices(job.classes, logits, scores, model.threshold))
        for job, (logits, scores) in zip(jobs, answers, strict=True)
    ]
    forward_done = time.perf_counter()
    found = _maps(evidence, plans)
    timings = {
        "forward": (forward_done - started) * 1e3,
        "backward": (time.perf_counter() - forward_done) * 1e3,
    }
    maps = _by_row(evidence.cut, plans, found)
    results = [
        JobResult(logits=n, scores=s, maps=m, timings=timings)
        for (n, s), m in zip(answers, maps, strict=True)
    ]
    if all(np.isfinite(values).all() for values in (answers, *found.values())):
        return list(results)
    return [finite(result) for result in results]


@dataclass(frozen=True, slots=True)
class _Wish:
    """A map that a row asks for, and the turn at which its objective is differentiated."""

    method: Method
    class_idx: int
    turn: int


@dataclass(frozen=True, slots=True)
class _Plan:
    """A row's wishes, and its objectives in the order of their turns: weights of logits."""

    wishes: list[_Wish]
    objectives: list[Mapping[int, float]]


def _plan(job: Job, logits: Numbers, class_idx: Sequence[int]) -> _Plan:
    """Methods with the same objective share a turn."""
    turns: dict[tuple[Objective, int], int] = {}
    wishes: list[_Wish] = []
    objectives: list[Mapping[int, float]] = []
    for method in (methods()[name] for name in job.methods):
        for index in class_idx:
            key = (method.objective, index)
            if key not in turns:
                turns[key] = len(objectives)
                objectives.append(method.objective(logits, index, job.against))
            wishes.append(_Wish(method, index, turns[key]))
    return _Plan(wishes, objectives)


def class_indices(
    classes: Sequence[int | str], logits: Numbers, scores: Numbers, threshold: float
) -> list[int]:
    """``top3`` becomes three indices; a class asked for twice is explained once.

    ``positive3`` becomes three at most: those of them whose scores reach the threshold.
    """
    found: dict[int, None] = {}
    for entry in classes:
        if isinstance(entry, int):
            found[entry] = None
            continue
        kind, count = _kind(entry)
        most = _highest(logits, count)
        if kind == POSITIVE:
            most = [index for index in most if scores[index] >= threshold]
        found.update(dict.fromkeys(most))
    return list(found)


@cache
def _kind(entry: str) -> tuple[str, int]:
    """``top3`` becomes ``("top", 3)``."""
    kind, count = re.fullmatch(r"(\D+)(\d+)", entry).groups()  # type: ignore[union-attr]
    return kind, int(count)


def _highest(logits: Numbers, count: int) -> list[int]:
    """The classes of the highest logits; of equals the first."""
    if count == 1:  # a twentieth of the time, and the most frequent wish
        return [int(logits.argmax())]
    ranking: list[int] = np.argsort(-logits, kind="stable")[:count].tolist()
    return ranking


_Found = dict[tuple[int, str], Floats]  # maps by turn and method, [N, h, w] each


def _maps(evidence: Evidence, plans: Sequence[_Plan]) -> _Found:
    """Turn k differentiates the k-th objective of every row: the longest row sets the cost."""
    turns = range(max(len(plan.objectives) for plan in plans))
    maps = {
        (turn, name): values
        for turn in turns
        for name, values in _turn(evidence, plans, turn).items()
    }
    return dict(zip(maps, _fetch(list(maps.values())), strict=True))


def _turn(evidence: Evidence, plans: Sequence[_Plan], turn: int) -> dict[str, Tensor]:
    objective = Objectives(
        evidence, [p.objectives[turn] if turn < len(p.objectives) else {} for p in plans]
    )
    wanted = {wish.method.info.name: wish.method
              for plan in plans for wish in plan.wishes if wish.turn == turn}  # fmt: skip
    return {name: objective.maps(method) for name, method in wanted.items()}


def _by_row(cut: Cut, plans: Sequence[_Plan], found: _Found) -> list[tuple[ClassMap, ...]]:
    places = {name: place(methods()[name], cut) for _, name in found}
    return [
        tuple(
            ClassMap(
                index=wish.class_idx,
                method=wish.method.info.name,
                layer=places[wish.method.info.name],
                values=found[wish.turn, wish.method.info.name][row],
            )
            for wish in plan.wishes
        )
        for row, plan in enumerate(plans)
    ]


def _fetch(tensors: Sequence[Tensor]) -> list[Floats]:
    """Bring them to the host, from a GPU all at once: each time the thread waits for it.

    Into memory that is pinned: on a copy to other memory CUDA waits with its own lock held, and so
    does every thread that has something to launch.
    """
    if not tensors or tensors[0].device.type == "cpu":
        return [tensor.numpy() for tensor in tensors]
    fetched = [
        torch.empty(tensor.shape, pin_memory=True).copy_(tensor, non_blocking=True)
        for tensor in tensors
    ]
    torch.cuda.current_stream(tensors[0].device).synchronize()
    return [tensor.numpy() for tensor in fetched]


def place(method: Method | SlowMethod, cut: Cut) -> str:
    """Where a method looks: at a layer, at the picture, or at the attention of every block."""
    needs = set(method.info.needs)
    if "activations" in needs:
        return cut.layer
    return "attention" if "attention" in needs else "input"


def finite(result: JobResult) -> Outcome:
    """The result, or an error where a number in it is not finite."""
    arrays = (result.logits, *(m.values for m in result.maps))
    if all(np.isfinite(array).all() for array in arrays):
        return result
    return NonFiniteOutput("The model answered this picture with numbers that are not finite.")
