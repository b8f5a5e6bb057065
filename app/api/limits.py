"""Middlewares at the door, plain ASGI: identity of a request, its size and pace.

``application.py`` lists them in their order.
"""

import asyncio
import logging
import re
import time
import uuid
from collections.abc import Callable
from http import HTTPStatus

from starlette.datastructures import Headers, MutableHeaders
from starlette.middleware.cors import CORSMiddleware
from starlette.requests import ClientDisconnect
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from app.api.errors import overdue, problem, public, refusal
from app.api.room import Place, Room
from app.errors import (
    BadRequest,
    BodyTooLarge,
    BodyTooSlow,
    CamserveError,
    HeadersTooLarge,
)
from app.logs import request_id
from app.metrics import Metrics

log = logging.getLogger(__name__)

_REQUEST_ID = re.compile(r"[A-Za-z0-9_.-]{1,128}")
_MAX_HEADER_BYTES = 32 * 1024
_WRAPPING = 64 * 1024  # of an image: the other parts of a form, the other keys of JSON
_QUIET = ("/livez", "/readyz", "/metrics")
_DRAIN_BYTES = 64_000_000  # of a refused body, so that the client reads the answer
_DRAIN_S = 2.0


class Identified:
    """Gives every response its ``X-Request-ID``, counts it and logs it.

    Once the service is about to end it asks each client to connect anew: elsewhere.
    """

    def __init__(self, app: ASGIApp, metrics: Metrics, is_draining: Callable[[], bool]) -> None:
        self._app = app
        self._metrics = metrics
        self._is_draining = is_draining

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        given = Headers(scope=scope).get("x-request-id", "")
        name = given if _REQUEST_ID.fullmatch(given) else uuid.uuid4().hex
        request_id.set(name)
        started = time.perf_counter()
        status = 499  # the client went before there was an answer

        async def send_identified(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                headers = MutableHeaders(scope=message)
                headers["X-Request-ID"] = name
                headers["X-Content-Type-Options"] = "nosniff"
                if self._is_draining():
                    headers["Connection"] = "close"
            await send(message)

        try:
            await self._app(scope, receive, send_identified)
        finally:
            self._count(scope, status, time.perf_counter() - started)

    def _count(self, scope: Scope, status: int, seconds: float) -> None:
        route = getattr(scope.get("route"), "path", "other")
        self._metrics.add(
            ("requests", 1, {"route": route, "status": str(status)}),
            ("request_seconds", seconds, {"route": route}),
        )
        if scope["path"] not in _QUIET:
            log.info("%s %s %d %.1f ms", scope["method"], route, status, seconds * 1e3)


class Guarded:
    """Turns what nobody expected into a 500 that says nothing and a log entry that says all."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        started = ended = False

        async def send_watched(message: Message) -> None:
            nonlocal started, ended
            started = True
            ended = message["type"] == "http.response.body" and not message.get("more_body")
            await send(message)

        try:
            await self._app(scope, receive, send_watched)
        except ClientDisconnect:
            log.info("the client hung up while it sent its body")
        except asyncio.CancelledError:  # by a server that ends: its grace is over
            if not started:
                await refusal(overdue(), scope["path"])(scope, receive, send)
            elif not ended:
                raise
        except Exception as exc:
            if started:
                raise  # half an answer cannot be taken back; the server cuts the connection
            await refusal(public(exc), scope["path"])(scope, receive, send)


class Cors(CORSMiddleware):
    """Starlette's, with our shape of error where it refuses a preflight."""

    def preflight_response(self, request_headers: Headers) -> Response:
        """The answer to a browser that asks whether it may ask."""
        response = super().preflight_response(request_headers)
        if response.status_code == HTTPStatus.OK:
            return response
        refusal = problem(BadRequest(f"{bytes(response.body).decode()}; see APP_CORS_ORIGINS."))
        fixed = {"content-type", "content-length"}
        refusal.headers.update({n: v for n, v in response.headers.items() if n not in fixed})
        return refusal


class HeadAsGet:
    """Answers HEAD wherever GET is answered, as HTTP asks and load balancers do."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or scope["method"] != "HEAD":
            await self._app(scope, receive, send)
            return
        as_get = {**scope, "method": "GET"}

        async def send_no_body(message: Message) -> None:
            await send({**message, "body": b""} if "body" in message else message)

        try:
            await self._app(as_get, receive, send_no_body)
        finally:
            scope["route"] = as_get.get("route")  # what it is counted under


class Bounded:
    """Refuses large headers, large bodies and slow ones; holds only so many bytes of all.

    Args:
        app: what is behind it.
        max_body_bytes: of an image; JSON may have a third more, for its base64.
        max_held_bytes: of all bodies together.
        receive_timeout_s: from the end of a request's head to its last byte, time not counted that
            it waits for room.
    """

    def __init__(
        self, app: ASGIApp, max_body_bytes: int, max_held_bytes: int, receive_timeout_s: float
    ) -> None:
        self._app = app
        self._max_body_bytes = max_body_bytes
        self._receive_timeout_s = receive_timeout_s
        self._room = Room(max_held_bytes, receive_timeout_s)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        with self._room.place() as place:
            await self._serve(scope, self._body(scope, receive, place), send)

    async def _serve(self, scope: Scope, body: "_Body", send: Send) -> None:
        async def send_after_body(message: Message) -> None:
            if message["type"] == "http.response.start" and not body.complete:
                if not body.waits:
                    await body.drop()
                if not body.complete:  # what still comes is no next request
                    MutableHeaders(scope=message)["Connection"] = "close"
            await send(message)

        try:
            _check_headers(scope)
            body.check_announced(Headers(scope=scope).get("content-length"))
        except CamserveError as exc:
            await refusal(exc, scope["path"])(scope, body.receive, send_after_body)
            return
        await self._app(scope, body.receive, send_after_body)

    def _body(self, scope: Scope, receive: Receive, place: Place) -> "_Body":
        headers = Headers(scope=scope)
        return _Body(
            receive,
            place,
            self._max_body_bytes,
            self._receive_timeout_s,
            is_json=headers.get("content-type", "").lower().startswith("application/json"),
            waits="expect" in headers,
        )


def _check_headers(scope: Scope) -> None:
    headers = sum(len(name) + len(value) for name, value in scope["headers"])
    if headers + len(scope["path"]) + len(scope["query_string"]) > _MAX_HEADER_BYTES:
        raise HeadersTooLarge(f"Address and headers are over {_MAX_HEADER_BYTES} bytes.")


class _Body:
    """What a request sends; ``waits``: it is not sent before it is asked for."""

    def __init__(
        self,
        receive: Receive,
        place: Place,
        max_image_bytes: int,
        timeout_s: float,
        *,
        is_json: bool,
        waits: bool,
    ) -> None:
        self._receive = receive
        self._place = place
        self._max_image_bytes = max_image_bytes
        self._limit = (max_image_bytes * 4 // 3 if is_json else max_image_bytes) + _WRAPPING
        self._deadline = time.monotonic() + timeout_s
        self._read = 0
        self.waits = waits
        self.complete = False

    def check_announced(self, content_length: str | None) -> None:
        """Refuse an honest giant before it is read."""
        if content_length and content_length.isdecimal():
            self._check(int(content_length))

    def _check(self, size: int) -> None:
        if size > self._limit:
            raise BodyTooLarge(
                f"The body is over {self._limit} bytes; an image may have {self._max_image_bytes}.",
                extra={"limits": {"max_body_bytes": self._max_image_bytes}},
            )

    async def receive(self) -> Message:
        if self.complete:
            return await self._receive()  # waits for the client to hang up
        self._deadline += await self._place.ready()
        before = self._read
        try:
            async with asyncio.timeout(self._deadline - time.monotonic()):
                message = await self._take()
        except TimeoutError as exc:
            raise BodyTooSlow("The body did not arrive in time.") from exc
        self._check(self._read)
        self._place.take(self._read - before, complete=self.complete)
        return message

    async def drop(self) -> None:
        """Read on for a moment, so that the client stops sending and reads why it was refused."""
        allowed = self._read + _DRAIN_BYTES
        seconds = min(_DRAIN_S, self._deadline - time.monotonic())
        try:
            async with asyncio.timeout(seconds):
                while not self.complete and self._read < allowed:
                    await self._take()
        except (TimeoutError, asyncio.CancelledError):  # by a server that ends: say why, at least
            return

    async def _take(self) -> Message:
        self.waits = False
        message = await self._receive()
        self._read += len(message.get("body", b""))
        self.complete = not message.get("more_body", False)
        return message
