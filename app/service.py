"""The use case, to be read aloud: decode, submit, render.

upload   ─ read_upload ───► the model's input    reading.py, a thread of this process
input    ─ Engine.submit ─► scores, raw maps     a worker: it waits there, engine/batching.py,
                                                 and runs with others, engine/fast.py
raw map  ─ Canvas.draw ───► pictures             drawing.py, a thread of this process
"""

import asyncio
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Executor
from contextlib import contextmanager, suppress
from contextvars import copy_context
from functools import partial
from typing import Any, ParamSpec, Protocol, TypeVar

import numpy as np

from app.admission import Admission
from app.catalogue import Models
from app.checks import Checker, Scores
from app.drawing import Canvas, shared_ranges
from app.errors import DeadlineExceeded, ModelReplaced
from app.options import ExplainOptions, PredictOptions
from app.order import Order, RequestLimits, make_order
from app.reading import Reading, read_upload
from app.types import (
    Answer,
    Catalogue,
    Explanation,
    Job,
    JobResult,
    Pixels,
    Prediction,
    Progress,
)

_MAX_SWITCHES = 3  # of its model's version, that one request goes along with
_ASK_AT_ONCE = 8  # pictures in flight of one request's checks: others want their turn

P = ParamSpec("P")
T = TypeVar("T")

OnProgress = Callable[[Progress], None]


class Engine(Protocol):
    """Runs jobs: ``EngineClient`` over sockets, ``LocalEngine`` in this process."""

    def catalogues(self) -> list[Catalogue]: ...

    async def submit(self, job: Job, on_progress: OnProgress | None = None) -> JobResult: ...


class Service:
    """Scores, and the maps they rest on.

    Args:
        engine: runs the models.
        threads: decode and render run here; they never call torch.
        limits: of one request.
        admission: of one request more.
        default_model: of a request that names none.
    """

    def __init__(
        self,
        engine: Engine,
        threads: Executor,
        limits: RequestLimits,
        admission: Admission,
        default_model: str,
    ) -> None:
        self._engine = engine
        self._threads = threads
        self._admission = admission
        self.limits = limits
        self.default_model = default_model

    def models(self) -> Models:
        """All models that the workers know, as they are now."""
        return Models(self._engine.catalogues())

    async def answer(
        self,
        upload: bytes,
        options: PredictOptions,
        began: float | None = None,
        on_progress: OnProgress | None = None,
        mask: bytes | None = None,
    ) -> Answer:
        """The scores; for ``ExplainOptions`` also a map for each method and class.

        Args:
            upload: the picture's file.
            options: of the request.
            began: when its time began to run, in ``time.monotonic()``; now, where that is None.
            on_progress: called while methods of many passes run.
            mask: a picture of the region that is asked about.

        Raises:
            CamserveError: the picture or an option is unusable, the deadline passed, too many
                requests are in progress, or no worker can do it now.
        """
        began = time.monotonic() if began is None else began
        with self._admission():
            for _ in range(_MAX_SWITCHES):
                with suppress(ModelReplaced):  # while it was on its way: the new version answers
                    return await self._attempt(upload, mask, options, began, on_progress)
            return await self._attempt(upload, mask, options, began, on_progress)

    async def _attempt(
        self,
        upload: bytes,
        mask: bytes | None,
        options: PredictOptions,
        began: float,
        on_progress: OnProgress | None,
    ) -> Answer:
        order = make_order(
            self.models(),
            options.model or self.default_model,
            options,
            self.limits,
            began=began,
            masked=mask is not None,
        )
        try:
            async with asyncio.timeout(order.deadline - time.monotonic()):
                return await self._answer(upload, mask, order, Stopwatch(began), on_progress)
        except TimeoutError as exc:
            raise DeadlineExceeded(f"There was no answer within {order.seconds:g} s.") from exc

    async def _answer(
        self,
        upload: bytes,
        mask: bytes | None,
        order: Order,
        watch: "Stopwatch",
        on_progress: OnProgress | None,
    ) -> Answer:
        options, model = order.options, order.model
        with watch("decode"):
            read = await self._in_thread(read_upload, upload, mask, order, self.limits)
        result = await self._engine.submit(order.job(read.pixels), on_progress)
        watch.take(result.timings)
        explanations: list[Explanation] = []
        if isinstance(options, ExplainOptions):
            with watch("render"):
                explanations = await self._explain(order, options, read, result)
            if options.counterfactual or options.check:
                with watch("check"):
                    explanations = await self._check(order, options, read, explanations)
        return Answer(
            model=model,
            image=read.info,
            predictions=_best(result, model.labels, options.top_k),
            explanations=tuple(explanations),
            torch=order.models.torch,
            timings=watch.total(),
            **_settings(options),
        )

    async def _explain(
        self, order: Order, options: ExplainOptions, read: Reading, result: JobResult
    ) -> list[Explanation]:
        methods = order.models.methods
        canvas = Canvas(
            shown=read.shown,
            info=read.info,
            options=options,
            labels=order.model.labels,
            scores=result.scores,
            methods=methods,
            cover=read.cover,
            ranges=shared_ranges(result.maps, methods) if options.scale == "shared" else {},
        )
        # One by one, so that a caller who has gone costs no more.
        return [await self._in_thread(canvas.draw, found) for found in result.maps]

    async def _check(
        self,
        order: Order,
        options: ExplainOptions,
        read: Reading,
        explanations: list[Explanation],
    ) -> list[Explanation]:
        checker = Checker(read.pixels, read.fill, partial(self._ask, order), self._in_thread)
        if options.counterfactual and read.cover is not None:
            explanations = await checker.blur_region(explanations, read.region_at_input)
        if options.check:
            explanations = [
                await checker.draw_curves(one, options.check, options.seed) for one in explanations
            ]
        return explanations

    async def _ask(self, order: Order, pictures: Sequence[Pixels]) -> Scores:
        """Scores of pictures of the model's own input size, a few at a time."""
        scores = []
        for start in range(0, len(pictures), _ASK_AT_ONCE):
            jobs = [order.question(pixels) for pixels in pictures[start : start + _ASK_AT_ONCE]]
            tasks = [asyncio.ensure_future(self._engine.submit(job)) for job in jobs]
            try:
                scores += [result.scores for result in await asyncio.gather(*tasks)]
            finally:
                for task in tasks:  # where one has failed, nobody waits for the others
                    task.cancel()
        return np.stack(scores)

    async def _in_thread(self, function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        call = partial(copy_context().run, partial(function, *args, **kwargs))
        return await asyncio.get_running_loop().run_in_executor(self._threads, call)


class Stopwatch:
    """Milliseconds by stage; ``total`` runs from ``began`` on, in ``time.monotonic()``."""

    def __init__(self, began: float) -> None:
        self._began = began
        self._stages: dict[str, float] = {}

    @contextmanager
    def __call__(self, stage: str) -> Iterator[None]:
        begun = time.monotonic()
        yield
        self._stages[stage] = (time.monotonic() - begun) * 1e3

    def take(self, timings: dict[str, float]) -> None:
        """Stages that somebody else has timed."""
        self._stages.update(timings)

    def total(self) -> dict[str, float]:
        """All stages, and ``total``."""
        return {**self._stages, "total": (time.monotonic() - self._began) * 1e3}


def _settings(options: PredictOptions) -> dict[str, Any]:
    """What of the options the receipt repeats."""
    if not isinstance(options, ExplainOptions):
        return {}
    return {"seed": options.seed, "normalize": options.normalize}


def _best(result: JobResult, labels: tuple[str, ...], top_k: int) -> tuple[Prediction, ...]:
    ranking = np.argsort(-result.logits, kind="stable")[:top_k].tolist()
    return tuple(
        Prediction(i, labels[i], float(result.scores[i]), float(result.logits[i])) for i in ranking
    )
