"""A job of many passes, one bounded pass at a time."""

import time
from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from app.backbones.model import Model
from app.backbones.parts import Cut
from app.engine.batching import Outcome, SlowRun
from app.engine.fast import class_indices, finite, place, run
from app.errors import CamserveError, DeadlineExceeded, InvalidOption
from app.explain.registry import SlowMethod, slow_methods
from app.explain.steps import Found, Gradient, Head, Pass, Row, Steps, Unfinished, Unsuited
from app.types import BUDGET_EXHAUSTED, ClassMap, Job, JobResult, Progress

_MARGIN = 0.05  # of a job's time, and at least
_MIN_MARGIN_S = 0.3  # for its answer to be drawn and sent


def run_slowly(model: Model, job: Job, slice_rows: int) -> SlowRun:
    """Scores and fast methods in one pass, then the slow methods one after the other.

    Args:
        model: a ready model.
        job: with at least one slow method.
        slice_rows: rows that a pass may have.

    Yields:
        Progress, after each pass.

    Returns:
        The outcome.
    """
    started = time.monotonic()
    slow = [slow_methods()[name] for name in job.methods if name in slow_methods()]
    fast = tuple(name for name in job.methods if name not in slow_methods())
    (first,) = run(model, [replace(job, methods=fast)])
    if not isinstance(first, JobResult):
        return first
    cut = model.cut(*job.layers)
    row = _row(model, job, first, cut, slice_rows, budget=max(1, job.budget // len(slow)))
    meter = _Meter(
        total=1 + sum(min(method.passes(row), row.budget) for method in slow),
        last=job.deadline - max(_MIN_MARGIN_S, _MARGIN * (job.deadline - started)),
    )
    if not row.class_idx:  # none is positive
        return first
    found = {(m.method, m.index): m for m in first.maps}
    try:
        for method in slow:
            for class_map in (yield from _explain(model, method, row, meter, cut)):
                found[class_map.method, class_map.index] = class_map
    except Unfinished:
        return _unfinished(late=meter.is_late)
    except Unsuited as exc:
        usable = f"; {model.clean_layer} is one" if model.clean_layer else ""
        return InvalidOption.of("layer", f"{exc}{usable}")
    passes = {"passes": (time.monotonic() - started) * 1e3 - sum(first.timings.values())}
    wanted = [(name, index) for name in job.methods for index in row.class_idx]
    maps = tuple(found[key] for key in wanted)
    return finite(replace(first, maps=maps, timings={**first.timings, **passes}))


def finish(steps: SlowRun) -> Outcome:
    """Take all steps of a slow job, where nothing else waits."""
    while True:
        try:
            next(steps)
        except StopIteration as end:
            outcome: Outcome = end.value
            return outcome


def _unfinished(*, late: bool) -> CamserveError:
    if late:
        return DeadlineExceeded("The deadline came before there was any map to show.")
    return InvalidOption.of("budget", "too small for this method to show anything")


def _ablation(cut: Cut, start: Tensor) -> Callable[[Sequence[int]], Tensor]:
    """Activations as the head takes them, with a channel of each row at zero."""

    def ablate(channels: Sequence[int]) -> Tensor:
        rows = start.repeat(len(channels), *[1] * (start.ndim - 1))
        for row, channel in zip(cut.grid.maps(rows), channels, strict=True):
            row[channel] = 0  # a view
        return rows

    return ablate


@dataclass
class _Meter:
    """How far a job has come, and when it must stop."""

    total: int
    last: float
    done: int = 1

    def count(self, rows: int) -> Progress:
        self.done = min(self.done + rows, self.total)
        return Progress(done=self.done, total=self.total)

    @property
    def is_late(self) -> bool:
        return time.monotonic() >= self.last


def _row(model: Model, job: Job, first: JobResult, cut: Cut, slice_rows: int, budget: int) -> Row:
    x = model.inputs([job.pixels])
    with torch.no_grad():
        start = cut.forward_features(x).float()
        _, target, *_ = cut.forward_head(
            start
        )  # of several layers the first: only layercam has them
    return Row(
        pixels=job.pixels,
        x=x,
        activations=cut.grid.maps(target),
        ablate=_ablation(cut, start) if cut.is_clean else None,
        logits=torch.from_numpy(first.logits.copy()).to(x.device),
        scores=model.scores,
        linear=cut.linear,
        class_idx=class_indices(job.classes, first.logits, first.scores, model.threshold),
        seed=job.seed,
        budget=budget,
        slice=slice_rows,
    )


def _explain(
    model: Model, method: SlowMethod, row: Row, meter: _Meter, cut: Cut
) -> Generator[Progress, None, list[ClassMap]]:
    found, stopped = yield from _drive(model, method.explain(row), row, meter, cut)
    exhausted = stopped or method.passes(row) > row.budget
    maps = found.maps.float().cpu().numpy()
    residuals: Sequence[float | None] = found.residuals or [None] * len(maps)
    return [
        ClassMap(
            index=index,
            method=method.info.name,
            layer=place(method, cut),
            values=values,
            flags=(BUDGET_EXHAUSTED,) if exhausted else (),
            residual=residual,
        )
        for index, values, residual in zip(row.class_idx, maps, residuals, strict=True)
    ]


def _drive(
    model: Model, steps: Steps, row: Row, meter: _Meter, cut: Cut
) -> Generator[Progress, None, tuple[Found, bool]]:
    """Do the passes that a method asks for; whether it was stopped before its end."""
    answer: Tensor | None = None
    spent, stopped = 0, False
    while True:
        try:
            wish = steps.send(answer)
        except StopIteration as end:
            return end.value, stopped
        rows = len(wish.rows)
        stopped = spent > 0 and (meter.is_late or spent + rows > row.budget)
        answer = None if stopped else _pass(model, wish, cut)
        if not stopped:
            spent += rows
            yield meter.count(rows)


def _pass(model: Model, wish: Pass, cut: Cut) -> Tensor:
    if isinstance(wish, Gradient):
        with torch.enable_grad():
            leaf = wish.rows.detach().requires_grad_()
            index = torch.tensor(wish.class_idx, device=leaf.device)
            chosen = model.module(leaf).gather(1, index.unsqueeze(1)).sum()
        return torch.autograd.grad(chosen, leaf)[0]
    with torch.no_grad():
        if isinstance(wish, Head):
            logits: Tensor = cut.forward_head(wish.rows)[0]
        else:
            logits = cut.forward_head(cut.forward_features(wish.rows).float())[0]
        return logits
