"""Pictures in, logits and maps out: the one place that knows both models and methods."""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from app.backbones.cut import TRACING, Cut
from app.backbones.model import Model
from app.backbones.registry import Registry
from app.engine.batching import Outcome
from app.engine.evidence import Evidence, Objectives
from app.errors import NonFiniteOutput
from app.explain.registry import Method, Objective, methods
from app.types import Catalogue, ClassMap, Job, JobResult, ModelInfo

Maps = np.ndarray[tuple[int, int, int], np.dtype[np.float32]]


class Runner:
    """Runs the jobs of one worker on the models of its registry."""

    def __init__(self, registry: Registry, max_batch_size: int) -> None:
        self._registry = registry
        self._max_batch_size = max_batch_size

    def run(self, jobs: Sequence[Job]) -> list[Outcome]:
        """Run rows that share model, version and layer; see ``run``."""
        model = self._registry.get(jobs[0].model, jobs[0].version)
        with TRACING:  # of another model, which is being loaded
            return run(model, jobs)

    def load(self, names: Sequence[str], on_change: Callable[[], None]) -> None:
        """Load models one after the other, each warm before it is announced as ready."""
        for name in names:
            self._registry.load(name, self._warm_up)
            on_change()

    def catalogue(self) -> Catalogue:
        """What is served now."""
        known = tuple(method.info for method in methods().values())
        return Catalogue(
            device=str(self._registry.device),
            torch=torch.__version__,
            models=tuple(
                model.model_copy(update={"methods": self._suited(model)})
                for model in self._registry.models()
            ),
            methods=known,
        )

    def _suited(self, model: ModelInfo) -> tuple[str, ...]:
        """The methods whose needs the model can meet."""
        if model.state != "ready":
            return ()
        provided = self._registry.get(model.name, str(model.version)).provides
        return tuple(
            name for name, method in methods().items() if provided.issuperset(method.info.needs)
        )

    def _warm_up(self, model: Model) -> None:
        """The smallest and the largest batch: kernels are chosen, and the memory is known to do."""
        pixels = np.full((*model.preprocess.crop, 3), 127, np.uint8)
        job = Job(
            model="", version="", pixels=pixels, deadline=0, classes=("top1",), methods=("gradcam",)
        )
        for rows in (1, self._max_batch_size):
            run(model, [job] * rows)


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
        model.normalize([job.pixels for job in jobs]),
        differentiable=any(job.methods for job in jobs),
    )
    scores = torch.softmax(evidence.logits, dim=1).cpu().numpy()  # [N, classes]
    logits = evidence.logits.cpu()
    plans = [_plan(job, row) for job, row in zip(jobs, logits, strict=True)]
    forward_done = time.perf_counter()
    maps = _maps(evidence, plans)
    timings = {
        "forward": (forward_done - started) * 1e3,
        "backward": (time.perf_counter() - forward_done) * 1e3,
    }
    return [
        _outcome(JobResult(logits=n, scores=s, maps=m, timings=timings, batch_rows=len(jobs)))
        for n, s, m in zip(logits.numpy(), scores, maps, strict=True)
    ]


@dataclass(frozen=True, slots=True)
class _Wish:
    """A map that a row asks for, and the turn at which its objective is differentiated."""

    method: Method
    class_idx: int
    turn: int


@dataclass(frozen=True, slots=True)
class _Plan:
    """A row's wishes, and its objectives, each [classes], in the order of their turns."""

    wishes: list[_Wish]
    objectives: list[Tensor]


def _plan(job: Job, logits: Tensor) -> _Plan:
    """Methods with the same objective share a turn."""
    turns: dict[tuple[Objective, int], int] = {}
    wishes: list[_Wish] = []
    objectives: list[Tensor] = []
    for method in (methods()[name] for name in job.methods):
        for class_idx in class_indices(job.classes, logits.numpy()):
            key = (method.objective, class_idx)
            if key not in turns:
                turns[key] = len(objectives)
                objectives.append(method.objective(logits, class_idx, job.against))
            wishes.append(_Wish(method, class_idx, turns[key]))
    return _Plan(wishes, objectives)


def class_indices(
    classes: Sequence[int | str], logits: np.ndarray[tuple[int], np.dtype[np.float32]]
) -> list[int]:
    """``top3`` becomes three indices; a class asked for twice is explained once."""
    ranking = np.argsort(-logits, kind="stable").tolist()
    found: dict[int, None] = {}
    for entry in classes:
        picked = [entry] if isinstance(entry, int) else ranking[: int(entry.removeprefix("top"))]
        found.update(dict.fromkeys(picked))
    return list(found)


def _maps(evidence: Evidence, plans: Sequence[_Plan]) -> list[tuple[ClassMap, ...]]:
    """Turn k differentiates the k-th objective of every row: the longest row sets the cost."""
    computed = [_turn(evidence, plans, k) for k in range(max(len(p.objectives) for p in plans))]
    return [
        tuple(
            ClassMap(
                index=wish.class_idx,
                method=wish.method.info.name,
                layer=place(wish.method, evidence.cut),
                values=computed[wish.turn][wish.method.info.name][row],
            )
            for wish in plan.wishes
        )
        for row, plan in enumerate(plans)
    ]


def _turn(evidence: Evidence, plans: Sequence[_Plan], turn: int) -> dict[str, Maps]:
    idle = torch.zeros_like(evidence.logits[0], device="cpu")
    weights = [p.objectives[turn] if turn < len(p.objectives) else idle for p in plans]
    objective = Objectives(evidence, torch.stack(weights).to(evidence.logits.device))
    wanted = {wish.method.info.name: wish.method
              for plan in plans for wish in plan.wishes if wish.turn == turn}  # fmt: skip
    return {name: objective.maps(method).cpu().numpy() for name, method in wanted.items()}


def place(method: Method, cut: Cut) -> str:
    """Where a method looks: at a layer, at the picture, or at the attention of every block."""
    needs = set(method.info.needs)
    if "activations" in needs:
        return cut.layer
    return "attention" if "attention" in needs else "input"


def _outcome(result: JobResult) -> Outcome:
    arrays = (result.logits, *(m.values for m in result.maps))
    if all(np.isfinite(array).all() for array in arrays):
        return result
    return NonFiniteOutput("The model answered this picture with numbers that are not finite.")
