"""The use case, to be read aloud: decode, submit, render."""

import asyncio
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Executor
from contextlib import contextmanager
from contextvars import copy_context
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, ParamSpec, Protocol, TypeVar

import numpy as np

from app.admission import Admission
from app.catalogue import Models, Plan
from app.checks import Checker, Scores, questions
from app.drawing import Canvas, shared_ranges
from app.errors import DeadlineExceeded, InvalidOption
from app.imaging import geometry, region
from app.imaging.decode import Decoded, decode
from app.imaging.preprocess import needed, preprocess
from app.options import ExplainOptions, PredictOptions
from app.types import (
    Answer,
    Box,
    Catalogue,
    Explanation,
    ImageInfo,
    Job,
    JobResult,
    Map,
    ModelInfo,
    Pixels,
    Prediction,
    Preprocess,
    Progress,
)

_ASK_AT_ONCE = 8  # pictures in flight of one request's checks: others want their turn

P = ParamSpec("P")
T = TypeVar("T")

OnProgress = Callable[[Progress], None]


class Engine(Protocol):
    """Runs jobs: ``EngineClient`` over sockets, ``LocalEngine`` in this process."""

    def catalogues(self) -> list[Catalogue]: ...

    async def submit(self, job: Job, on_progress: OnProgress | None = None) -> JobResult: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class RequestLimits:
    """What one request may ask for."""

    max_pixels: int
    max_maps: int
    max_picture_pixels: int
    max_budget: int
    deadline_s: float
    slow_deadline_s: float


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
        with self._admission():
            order = self._order(options, time.monotonic() if began is None else began, mask)
            try:
                async with asyncio.timeout(order.deadline - time.monotonic()):
                    return await self._answer(upload, mask, order, on_progress)
            except TimeoutError as exc:
                raise DeadlineExceeded(f"There was no answer within {order.seconds:g} s.") from exc

    def _order(self, options: PredictOptions, began: float, mask: bytes | None) -> "_Order":
        """Check what is asked for, before anything is done."""
        models, limits = self.models(), self.limits
        model = models.ready(options.model or self.default_model)
        plan = models.plan(model, options, limits.max_maps)
        if isinstance(options, ExplainOptions):
            _check_questions(options, plan, limits.max_budget, masked=mask is not None)
        slow = plan.slow or (isinstance(options, ExplainOptions) and bool(options.check))
        seconds = options.seconds(limits.slow_deadline_s if slow else limits.deadline_s)
        budget = _budget(options, limits.max_budget)
        return _Order(options, models, model, plan, budget, seconds, began + seconds)

    async def _answer(
        self,
        upload: bytes,
        mask: bytes | None,
        order: "_Order",
        on_progress: OnProgress | None,
    ) -> Answer:
        options, model, watch = order.options, order.model, Stopwatch()
        with watch("decode"):
            read = await self._in_thread(_read, upload, mask, order, self.limits)
        job = _explaining(order, _job(order, read.pixels))
        result = await self._engine.submit(job, on_progress)
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
        self, order: "_Order", options: ExplainOptions, read: "_Read", result: JobResult
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
        order: "_Order",
        options: ExplainOptions,
        read: "_Read",
        explanations: list[Explanation],
    ) -> list[Explanation]:
        checker = Checker(read.pixels, read.fill, partial(self._ask, order))
        if options.counterfactual and read.cover is not None:
            explanations = await checker.blur_region(explanations, read.region_at_input)
        if options.check:
            explanations = [
                await checker.draw_curves(one, options.check, options.seed) for one in explanations
            ]
        return explanations

    async def _ask(self, order: "_Order", pictures: Sequence[Pixels]) -> Scores:
        """Scores of pictures of the model's own input size, a few at a time."""
        scores = []
        for start in range(0, len(pictures), _ASK_AT_ONCE):
            jobs = [_job(order, pixels) for pixels in pictures[start : start + _ASK_AT_ONCE]]
            scores += [r.scores for r in await asyncio.gather(*map(self._engine.submit, jobs))]
        return np.stack(scores)

    async def _in_thread(self, function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        call = partial(copy_context().run, partial(function, *args, **kwargs))
        return await asyncio.get_running_loop().run_in_executor(self._threads, call)


class Stopwatch:
    """Milliseconds by stage."""

    def __init__(self) -> None:
        self._started = time.perf_counter()
        self._stages: dict[str, float] = {}

    @contextmanager
    def __call__(self, stage: str) -> Iterator[None]:
        begun = time.perf_counter()
        yield
        self._stages[stage] = (time.perf_counter() - begun) * 1e3

    def take(self, timings: dict[str, float]) -> None:
        """Stages that somebody else has timed."""
        self._stages.update(timings)

    def total(self) -> dict[str, float]:
        """All stages, and ``total``."""
        return {**self._stages, "total": (time.perf_counter() - self._started) * 1e3}


@dataclass(frozen=True, slots=True)
class _Order:
    """A request that was found to be possible; ``deadline`` in ``time.monotonic()``."""

    options: PredictOptions
    models: Models
    model: ModelInfo
    plan: Plan
    budget: int
    seconds: float
    deadline: float


def _check_questions(options: ExplainOptions, plan: Plan, limit: int, *, masked: bool) -> None:
    if masked and options.region is not None:
        raise _invalid("region", "is given as a box and as a mask")
    if options.counterfactual and not (masked or options.region):
        raise _invalid("counterfactual", "needs a region or a mask")
    asked = questions(options, plan.maps)
    if asked > limit:
        raise _invalid("check", f"needs {asked} passes; the limit is {limit}")


def _invalid(option: str, detail: str) -> InvalidOption:
    return InvalidOption(f"{option}: {detail}.", fields=[(option, detail)])


def _budget(options: PredictOptions, limit: int) -> int:
    asked = options.budget if isinstance(options, ExplainOptions) else None
    if asked is not None and asked > limit:
        raise InvalidOption(
            f"budget: the limit is {limit}.",
            fields=[("budget", f"the limit is {limit}")],
            extra={"limits": {"max_budget": limit}},
        )
    return asked or limit


@dataclass(frozen=True, slots=True)
class _Read:
    """An upload that was decoded: the picture, what the model sees of it, and what it is.

    ``fill`` is the colour that tells the model nothing; ``cover`` the region that is asked about.
    """

    shown: Decoded
    pixels: Pixels
    info: ImageInfo
    fill: tuple[int, int, int]
    cover: Map | None

    @property
    def region_at_input(self) -> Map:
        """[H, W] of the model's input, in [0, 1]."""
        assert self.cover is not None  # noqa: S101 - it was asked for
        height, width = self.pixels.shape[:2]
        upload = self.info.width, self.info.height
        return region.at_input(self.cover, self.info.crop, upload, (width, height))


def _job(order: _Order, pixels: Pixels) -> Job:
    """A mere question: what are the scores?"""
    return Job(
        model=order.model.name,
        version=str(order.model.version),
        pixels=pixels,
        deadline=order.deadline,
    )


def _explaining(order: _Order, job: Job) -> Job:
    """The same, and the maps."""
    plan, options = order.plan, order.options
    return replace(
        job,
        classes=plan.classes,
        methods=plan.methods,
        layers=plan.layers,
        against=plan.against,
        needs=plan.needs,
        slow=plan.slow,
        seed=options.seed if isinstance(options, ExplainOptions) else 0,
        budget=order.budget,
    )


def _read(upload: bytes, mask: bytes | None, order: _Order, limits: RequestLimits) -> _Read:
    options, spec = order.options, order.model.preprocess
    assert isinstance(spec, Preprocess)  # noqa: S101 - a ready model has one
    view, side, max_pixels = options.view, options.picture_side, limits.max_pixels
    decoded = decode(upload, max_pixels=max_pixels, needed=lambda w, h: needed(w, h, spec, view))
    pixels, box = preprocess(decoded, spec, view)
    info = ImageInfo(decoded.width, decoded.height, decoded.format, decoded.orientation, box)
    cover = None
    if isinstance(options, ExplainOptions):
        pictures = order.plan.maps * options.pictures
        _check_pictures(info, options, pictures, limits.max_picture_pixels)
        cover = _cover(info, options, mask, max_pixels)
    if max(decoded.image.size) < min(side, max(info.width, info.height)):
        # Too small to be shown. Scores must not depend on what is shown, so it is decoded again.
        decoded = decode(
            upload, max_pixels=max_pixels, needed=lambda w, h: geometry.fit(w, h, side)
        )
    red, green, blue = (round(255 * level) for level in spec.mean)
    return _Read(decoded, pixels, info, (red, green, blue), cover)


def _cover(
    info: ImageInfo, options: ExplainOptions, mask: bytes | None, max_pixels: int
) -> Map | None:
    upload = info.width, info.height
    if mask is not None:
        return region.mask_region(mask, upload, max_pixels)
    return None if options.region is None else region.box_region(Box(*options.region), upload)


def _check_pictures(info: ImageInfo, options: ExplainOptions, pictures: int, limit: int) -> None:
    width, height = geometry.fit(info.width, info.height, options.size)
    if pictures * width * height > limit:
        detail = f"{pictures} pictures of {width}x{height} are over {limit} pixels; ask for less"
        raise InvalidOption(
            f"size: {detail}.",
            fields=[("size", detail)],
            extra={"limits": {"max_picture_pixels": limit}},
        )


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
