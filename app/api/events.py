"""Server-sent events: progress while the work goes on, then its result or its error."""

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

from starlette.responses import StreamingResponse

from app.api.errors import overdue, problem, public
from app.errors import CamserveError
from app.types import Progress

MEDIA_TYPE = "text/event-stream"

_COMMENT_S = 10.0  # proxies cut what is silent

Work = Callable[[Callable[[Progress], None]], Awaitable[bytes]]


def stream(work: Work) -> StreamingResponse:
    """Tell a client of work as it goes on; the work ends when the client hangs up.

    Args:
        work: takes what to call with progress, and gives the JSON of its result.
    """
    headers = {"Cache-Control": "no-store", "Vary": "Accept", "X-Accel-Buffering": "no"}
    return StreamingResponse(_events(work), headers=headers, media_type=MEDIA_TYPE)


async def _events(work: Work) -> AsyncIterator[bytes]:
    latest: asyncio.Queue[Progress] = asyncio.Queue()
    task = asyncio.ensure_future(work(latest.put_nowait))
    try:
        while not (task.done() and latest.empty()):
            yield await _next(latest, task)
        yield _outcome(task)
    except asyncio.CancelledError:  # the client has gone, or the server ends: then it reads this
        yield _error(overdue())
    finally:
        task.cancel()


async def _next(latest: "asyncio.Queue[Progress]", task: "asyncio.Future[bytes]") -> bytes:
    """The next piece to send while the work goes on; nothing, once it is done."""
    waiting = asyncio.ensure_future(latest.get())
    either: list[asyncio.Future[Any]] = [waiting, task]
    try:
        await asyncio.wait(either, timeout=_COMMENT_S, return_when=asyncio.FIRST_COMPLETED)
        if waiting.done():
            return _event("progress", _as_json(waiting.result()))
    finally:
        waiting.cancel()
    return b"" if task.done() else b": still at it\n\n"


def _outcome(task: "asyncio.Future[bytes]") -> bytes:
    error = task.exception()
    if error is None:
        return _event("result", task.result())
    return _error(public(error))


def _error(error: CamserveError) -> bytes:
    return _event("error", bytes(problem(error).body))


def _as_json(progress: Progress) -> bytes:
    content: dict[str, Any] = {"done": progress.done, "total": progress.total}
    return json.dumps(content).encode()


def _event(name: str, data: bytes) -> bytes:
    return b"event: " + name.encode() + b"\ndata: " + data + b"\n\n"
