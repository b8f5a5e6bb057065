"""Errors leave as ``application/problem+json`` (RFC 9457); their causes stay in the log."""

import json
import logging
from http import HTTPStatus
from typing import Any

from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from app.errors import CamserveError, Draining, MethodNotAllowed, NotFound
from app.logs import request_id

log = logging.getLogger(__name__)


def problem(error: CamserveError) -> Response:
    """The response that tells a client of an error."""
    body: dict[str, Any] = {
        "type": "about:blank",
        "title": error.title,
        "status": error.status,
        "code": error.code,
        "detail": error.detail,
        "request_id": request_id.get(),
        "retryable": error.retryable,
        **error.extra,
    }
    if error.fields:
        body["errors"] = [{"field": field, "detail": detail} for field, detail in error.fields]
    headers = {"Cache-Control": "no-store"}
    if error.retry_after is not None:
        headers["Retry-After"] = str(error.retry_after)
    if error.status == HTTPStatus.UNAUTHORIZED:
        headers["WWW-Authenticate"] = "Bearer"
    return Response(json.dumps(body), error.status, headers, "application/problem+json")


def overdue() -> Draining:
    """Of a request that is not done when the server ends."""
    return Draining("The server ends and waits no longer. Ask again: another one answers.")


def refusal(error: CamserveError, path: str) -> Response:
    """The same in the shape of the dialect that speaks at this path."""
    response = problem(error)
    if not path.startswith("/v2/"):
        return response
    fixed = {"content-length", "content-type"}
    headers = {name: value for name, value in response.headers.items() if name not in fixed}
    return JSONResponse({"error": error.detail}, error.status, headers)


def public(exc: BaseException) -> CamserveError:
    """What a client may know of an error; the log is told the rest."""
    if isinstance(exc, CamserveError):
        return exc
    log.error("unexpected", exc_info=exc)
    return CamserveError("Something unexpected happened; the log of the server says what.")


async def on_camserve_error(request: Request, exc: Exception) -> Response:
    """Handler for our own tree."""
    assert isinstance(exc, CamserveError)  # noqa: S101 - registered for it
    if exc.status >= HTTPStatus.INTERNAL_SERVER_ERROR:
        log.warning("%s: %s", exc.code, exc.detail, exc_info=exc.__cause__)
    return refusal(exc, request.url.path)


async def on_http_exception(request: Request, exc: Exception) -> Response:
    """Handler for what the router itself refuses: an unknown path or method."""
    assert isinstance(exc, HTTPException)  # noqa: S101 - registered for it
    path = request.url.path
    if exc.status_code == HTTPStatus.METHOD_NOT_ALLOWED:
        response = refusal(MethodNotAllowed(f"{request.method} is not for {path}."), path)
        response.headers.update(exc.headers or {})  # Allow
        return response
    return refusal(NotFound(f"There is nothing at {path}; see /docs."), path)
