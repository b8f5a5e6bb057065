"""The use case, to be read aloud: decode, submit, render."""

import asyncio
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Executor
from contextlib import contextmanager
from contextvars import copy_context
from dataclasses import dataclass
from functools import partial
from typing import ParamSpec, Protocol, TypeVar

import numpy as np

from app.admission import Admission
from app.catalogue import Models, Plan
from app.errors import DeadlineExceeded, InvalidOption
from app.imaging import geometry, render
from app.imaging.decode import Decoded, decode
from app.imaging.normalize import normalize
from app.imaging.preprocess import needed, preprocess
from app.options import ExplainOptions, PredictOptions
from app.types import (
    Answer,
    Catalogue,
    ClassMap,
    Explanation,
    ImageInfo,
    Job,
    JobResult,
    MethodInfo,
    ModelInfo,
    Pixels,
    Prediction,
    Preprocess,
    Progress,
)

_GRID_SIDE = 56  # a finer grid would be many kilobytes of text

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
    ) -> Answer:
        """The scores; for ``ExplainOptions`` also a map for each method and class.

        Args:
            upload: the picture's file.
            options: of the request.
            began: when its time began to run, in ``time.monotonic()``; now, where that is None.
            on_progress: called while methods of many passes run.

        Raises:
            CamserveError: the picture or an option is unusable, the deadline passed, too many
                requests are in progress, or no worker can do it now.
        """
        with self._admission():
            order = self._order(options, time.monotonic() if began is None else began)
            try:
                async with asyncio.timeout(order.deadline - time.monotonic()):
                    return await self._answer(upload, order, on_progress)
            except TimeoutError as exc:
                raise DeadlineExceeded(f"There was no answer within {order.seconds:g} s.") from exc

    def _order(self, options: PredictOptions, began: float) -> "_Order":
        """Check what is asked for, before anything is done."""
        models, limits = self.models(), self.limits
        model = models.ready(options.model or self.default_model)
        plan = models.plan(model, options, limits.max_maps)
        seconds = options.seconds(limits.slow_deadline_s if plan.slow else limits.deadline_s)
        budget = _budget(options, limits.max_budget)
        return _Order(options, models, model, plan, budget, seconds, began + seconds)

    async def _answer(
        self, upload: bytes, order: "_Order", on_progress: OnProgress | None
    ) -> Answer:
        options, model, watch = order.options, order.model, Stopwatch()
        with watch("decode"):
            read = await self._in_thread(_read, upload, order, self.limits)
        result = await self._engine.submit(_job(order, read), on_progress)
        watch.take(result.timings)
        explanations: list[Explanation] = []
        if isinstance(options, ExplainOptions):
            draw = partial(_draw, read, model.labels, order.models.methods, options)
            with watch("render"):  # one by one, so that a caller who has gone costs no more
                explanations = [await self._in_thread(draw, found) for found in result.maps]
        return Answer(
            model=model,
            image=read.info,
            predictions=_best(result, model.labels, options.top_k),
            explanations=tuple(explanations),
            torch=order.models.torch,
            timings=watch.total(),
            seed=options.seed if isinstance(options, ExplainOptions) else None,
        )

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
    """An upload that was decoded: the picture, what the model sees of it, and what it is."""

    shown: Decoded
    pixels: Pixels
    info: ImageInfo


def _job(order: _Order, read: _Read) -> Job:
    plan, options = order.plan, order.options
    return Job(
        model=order.model.name,
        version=str(order.model.version),
        pixels=read.pixels,
        deadline=order.deadline,
        classes=plan.classes,
        methods=plan.methods,
        layers=plan.layers,
        against=plan.against,
        needs=plan.needs,
        slow=plan.slow,
        seed=options.seed if isinstance(options, ExplainOptions) else 0,
        budget=order.budget,
    )


def _read(upload: bytes, order: _Order, limits: RequestLimits) -> _Read:
    options, spec = order.options, order.model.preprocess
    assert isinstance(spec, Preprocess)  # noqa: S101 - a ready model has one
    view, side, max_pixels = options.view, options.picture_side, limits.max_pixels
    decoded = decode(upload, max_pixels=max_pixels, needed=lambda w, h: needed(w, h, spec, view))
    pixels, box = preprocess(decoded, spec, view)
    info = ImageInfo(decoded.width, decoded.height, decoded.format, decoded.orientation, box)
    if isinstance(options, ExplainOptions):
        pictures = order.plan.maps * options.pictures
        _check_pictures(info, options, pictures, limits.max_picture_pixels)
    if max(decoded.image.size) < min(side, max(info.width, info.height)):
        # Too small to be shown. Scores must not depend on what is shown, so it is decoded again.
        decoded = decode(
            upload, max_pixels=max_pixels, needed=lambda w, h: geometry.fit(w, h, side)
        )
    return _Read(decoded, pixels, info)


def _check_pictures(info: ImageInfo, options: ExplainOptions, pictures: int, limit: int) -> None:
    width, height = geometry.fit(info.width, info.height, options.size)
    if pictures * width * height > limit:
        detail = f"{pictures} pictures of {width}x{height} are over {limit} pixels; ask for less"
        raise InvalidOption(
            f"size: {detail}.",
            fields=[("size", detail)],
            extra={"limits": {"max_picture_pixels": limit}},
        )


def _draw(
    read: _Read,
    labels: tuple[str, ...],
    methods: dict[str, MethodInfo],
    options: ExplainOptions,
    class_map: ClassMap,
) -> Explanation:
    info = read.info
    evidence, flags = normalize(class_map.values, relu=methods[class_map.method].relu)
    out = geometry.fit(info.width, info.height, options.size)
    laid = geometry.lay(evidence, info.crop, (info.width, info.height), out)
    style = render.Style(options.colormap, options.alpha, options.format)
    wanted = options.output
    return Explanation(
        index=class_map.index,
        label=labels[class_map.index],
        method=class_map.method,
        layer=class_map.layer,
        raw=class_map.values,
        grid=geometry.shrink(class_map.values, _GRID_SIDE),
        with_raw="raw" in wanted,
        flags=(*flags, *class_map.flags),
        residual=class_map.residual,
        heatmap=render.heatmap(laid, style) if "heatmap" in wanted else None,
        overlay=render.overlay(laid, read.shown.image, style) if "overlay" in wanted else None,
    )


def _best(result: JobResult, labels: tuple[str, ...], top_k: int) -> tuple[Prediction, ...]:
    ranking = np.argsort(-result.logits, kind="stable")[:top_k].tolist()
    return tuple(
        Prediction(i, labels[i], float(result.scores[i]), float(result.logits[i])) for i in ranking
    )
