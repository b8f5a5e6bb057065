"""camserve's own API: ``/api/v1``."""

import asyncio
import time
from collections.abc import Awaitable, Callable, Coroutine, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any
from urllib.parse import quote

from fastapi import APIRouter
from starlette.requests import Request
from starlette.responses import Response

import app
from app.api import documentation as doc
from app.api.body import (
    Options,
    Upload,
    check_encoding,
    check_size,
    parse_body,
    parse_options,
    takes_long,
)
from app.api.cache import ResponseCache, make_etag
from app.api.events import MEDIA_TYPE as EVENTS
from app.api.events import stream
from app.api.negotiate import negotiate
from app.api.schemas import (
    ExplainResponse,
    LimitsResponse,
    MethodOut,
    MethodsResponse,
    ModelsResponse,
    PredictResponse,
)
from app.api.writing import answer_json
from app.errors import InvalidOption
from app.imaging.decode import FORMATS
from app.logs import request_id
from app.metrics import Metrics
from app.options import ExplainOptions, PredictOptions
from app.service import OnProgress, Service
from app.types import BUDGET_EXHAUSTED, Answer, ModelInfo

JSON = "application/json"
PICTURES = ("image/png", "image/webp", "image/jpeg")

Work = Callable[..., Coroutine[Any, Any, Answer]]  # may be told whom to tell of its progress
Write = Callable[[Answer], Awaitable[Response]]

_KEPT = "private, no-cache"  # Cache-Control of what has an ETag

# Seconds that writing takes, about, and how many of them the event loop has between two requests.
_MAP_S, _NUMBER_S, _BYTE_S = 25e-6, 60e-9, 0.2e-9
_MOMENT_S = 0.5e-3


class NativeApi:
    """The routes of ``/api/v1``.

    Args:
        service: the use case.
        metrics: where stage times are counted.
        max_body_bytes: of an image.
        cache: of answers, or None where none are kept.
    """

    def __init__(
        self,
        service: Service,
        metrics: Metrics,
        max_body_bytes: int,
        cache: ResponseCache | None = None,
    ) -> None:
        self._service = service
        self._metrics = metrics
        self._max_body_bytes = max_body_bytes
        self._cache = cache
        self.router = APIRouter(prefix="/api/v1")
        post, get = self.router.post, self.router.get
        post("/predict", response_model=PredictResponse, **doc.predict())(self.predict)
        post("/explain", response_model=ExplainResponse, **doc.explain(PICTURES))(self.explain)
        get("/models", responses=doc.errors(401))(self.models)
        get("/models/{name}", responses=doc.errors(401, 404, 422, 503))(self.model)
        get("/methods", responses=doc.errors(401))(self.methods)
        get("/limits", responses=doc.errors(401))(self.limits)

    async def predict(self, request: Request) -> Response:
        """Class scores alone."""
        negotiate(_accept(request), (JSON,))
        upload, options, began = await self._receive(request, PredictOptions)
        work = partial(self._ask, upload, options, began)
        write = partial(self._json, explained=False)
        return await self._answer(request, _Wish(upload, options, "scores"), work, write)

    async def explain(self, request: Request) -> Response:
        """Class scores, and heatmaps of what they rest on, in one pass."""
        media_type = negotiate(_accept(request), (JSON, *PICTURES, EVENTS))
        bare = media_type in PICTURES
        upload, options, began = await self._receive(
            request, ExplainOptions, {"output": "overlay"} if bare else {}
        )
        if bare:
            options = _only_the_overlay(options, media_type)
        work = partial(self._ask, upload, options, began)
        if media_type == EVENTS:
            return stream(partial(self._tell, work))
        write = self._overlay if bare else partial(self._json, explained=True)
        return await self._answer(request, _Wish(upload, options, media_type), work, write)

    async def _ask(
        self,
        upload: Upload,
        options: PredictOptions,
        began: float,
        on_progress: OnProgress | None = None,
    ) -> Answer:
        """Have it answered, and count what its stages took."""
        answer = await self._service.answer(
            upload.image, options, began, on_progress, mask=upload.mask
        )
        self._metrics.add(
            *(("stage_seconds", ms / 1e3, {"stage": stage})
              for stage, ms in answer.timings.items())
        )  # fmt: skip
        return answer

    async def _tell(self, work: Work, on_progress: OnProgress) -> bytes:
        """The JSON of an answer that is waited for with news of its progress."""
        answer = await work(on_progress=on_progress)
        return await asyncio.to_thread(answer_json, answer, request_id.get(), explained=True)

    async def models(self) -> ModelsResponse:
        """Every model of the models folder, with its state."""
        models = list(self._service.models())
        return ModelsResponse(default=self._service.default_model, models=models)

    async def model(self, name: str) -> ModelInfo:
        """One model: its labels, input, layers and methods."""
        return self._service.models().get(name)

    async def methods(self) -> MethodsResponse:
        """The explanation methods."""
        models = self._service.models()
        suited = {
            name: tuple(model.name for model in models if name in model.methods)
            for name in models.methods
        }
        return MethodsResponse(
            methods=[
                MethodOut(**info.model_dump(), models=suited[name])
                for name, info in models.methods.items()
            ]
        )

    async def limits(self) -> LimitsResponse:
        """What a request may ask for."""
        limits = self._service.limits
        return LimitsResponse(
            max_body_bytes=self._max_body_bytes,
            max_pixels=limits.max_pixels,
            max_maps=limits.max_maps,
            max_picture_pixels=limits.max_picture_pixels,
            max_budget=limits.max_budget,
            deadline_ms=round(limits.deadline_s * 1e3),
            slow_deadline_ms=round(limits.slow_deadline_s * 1e3),
            formats=list(FORMATS),
        )

    async def _answer(self, request: Request, wish: "_Wish", work: Work, write: Write) -> Response:
        """Do the work and write it down, unless the answer is known."""
        if self._cache is None:
            answer = await _while_connected(request, work())
            return _gone() if answer is None else await write(answer)
        models = self._service.models()
        model = models.ready(wish.options.model or self._service.default_model)
        version, limit = str(model.version), str(self._service.limits.max_maps)
        makers = (model.name, version, model.precision, models.torch, app.__version__, limit)
        etag = await asyncio.to_thread(make_etag, wish.upload, wish.options, wish.kind, makers)
        if etag in request.headers.get("if-none-match", ""):
            headers = {"ETag": etag, "Cache-Control": _KEPT, "Vary": "Accept"}
            return self._counted("known", Response(status_code=304, headers=headers))
        if kept := self._cache.get(etag):
            return self._counted("hit", kept)
        answer = await _while_connected(request, work())
        if answer is None:
            return _gone()
        response = await write(answer)
        if answer.model.version == version and not _is_partial(answer):  # nor replaced meanwhile
            response.headers.update({"ETag": etag, "Cache-Control": _KEPT})
            self._cache.put(etag, response)
        return self._counted("miss", response)

    def _counted(self, outcome: str, response: Response) -> Response:
        self._metrics.add(("cache", 1, {"outcome": outcome}))
        return response

    async def _receive(
        self, request: Request, model: type[Options], defaults: Mapping[str, Any] | None = None
    ) -> tuple[Upload, Options, float]:
        """The image, its options, and when its last byte was there."""
        check_encoding(request.headers.get("content-encoding", "identity"))
        content_type = request.headers.get("content-type", "")
        body = await request.body()
        began = time.monotonic()
        # Not in the threads that decode: a queue in front of those must not hold this up.
        parse = partial(parse_body, content_type, body)
        upload = await asyncio.to_thread(parse) if takes_long(content_type, body) else parse()
        check_size(upload.image, self._max_body_bytes)
        if upload.mask is not None and model is not ExplainOptions:
            raise InvalidOption.of("mask", "there is no such option")
        query = request.query_params.multi_items()
        return upload, parse_options(model, query, upload.options, defaults), began

    async def _json(self, answer: Answer, *, explained: bool) -> Response:
        write = partial(answer_json, answer, request_id.get(), explained=explained)
        content = await asyncio.to_thread(write) if _writing_s(answer) > _MOMENT_S else write()
        return Response(content, headers=_headers(answer), media_type=JSON)

    async def _overlay(self, answer: Answer) -> Response:
        (explanation,), top = answer.explanations, answer.predictions[0]
        assert explanation.overlay is not None  # noqa: S101 - it was asked for
        headers = _headers(answer) | {
            "X-Top-Index": str(top.index),
            "X-Top-Score": f"{top.score:.6f}",
            "X-Top-Label": quote(top.label, safe=""),
        }
        overlay = explanation.overlay
        return Response(overlay.data, headers=headers, media_type=overlay.media_type)


@dataclass(frozen=True, slots=True)
class _Wish:
    """What a request asks for."""

    upload: Upload
    options: PredictOptions
    kind: str


def _accept(request: Request) -> str:
    return ",".join(request.headers.getlist("accept"))


async def _while_connected(request: Request, work: Coroutine[Any, Any, Answer]) -> Answer | None:
    """Do the work, or drop it when the client hangs up."""
    task = asyncio.ensure_future(work)
    hang_up = asyncio.ensure_future(request.receive())  # the body is read: only the end can come
    try:
        await asyncio.wait({task, hang_up}, return_when=asyncio.FIRST_COMPLETED)
        return await task if task.done() else None
    finally:
        hang_up.cancel()
        task.cancel()


def _headers(answer: Answer) -> dict[str, str]:
    """Those of every answer."""
    timing = ", ".join(f"{stage};dur={ms:.1f}" for stage, ms in answer.timings.items())
    return {"Server-Timing": timing, "Cache-Control": "no-store", "Vary": "Accept"}


def _is_partial(answer: Answer) -> bool:
    """Whether more time might have made it another one."""
    return any(BUDGET_EXHAUSTED in e.flags for e in answer.explanations)


def _gone() -> Response:
    return Response(status_code=499)  # nobody reads it; it is counted


def _only_the_overlay(options: ExplainOptions, media_type: str) -> ExplainOptions:
    """Accept decides; what would cost time and have no place in a picture is refused."""
    lost = {
        "method": len(options.method) > 1,
        "classes": options.asks_for_several,
        "check": bool(options.check),
        "counterfactual": options.counterfactual,
    }
    for option in (name for name, is_lost in lost.items() if is_lost):
        detail = "does not fit one picture; ask for one map and no more, or Accept JSON"
        raise InvalidOption.of(option, detail)
    image_format = media_type.removeprefix("image/")
    return options.model_copy(update={"output": ("overlay",), "format": image_format})


def _writing_s(answer: Answer) -> float:
    """How long it takes to write an answer as text, about."""
    maps = answer.explanations
    pictures = [picture for e in maps for picture in (e.heatmap, e.overlay) if picture]
    size = sum(len(picture.data) for picture in pictures)
    size += sum(e.raw.nbytes for e in maps if e.with_raw)
    numbers = sum(e.grid.size for e in maps)
    numbers += sum(2 * len(spot.contour) for e in maps for spot in e.spots or ())
    return len(maps) * _MAP_S + numbers * _NUMBER_S + size * _BYTE_S
