"""uvicorn in an http process: no signals of its own, ended by the parent."""

import asyncio
import itertools
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import uvicorn
from starlette.types import ASGIApp

from app.api.protocol import Protocol
from app.errors import Draining, error_from_line
from app.types import Action

_KEEP_ALIVE_S = 75  # longer than a load balancer's idle time, so that it never loses that race


class HttpServer:
    """Serves the API on the parent's socket.

    Args:
        send: a line to the parent.
        grace_s: for the requests in flight, once it is told to stop.
        draining: whether the service is about to end already.
    """

    def __init__(
        self, send: Callable[[dict[str, Any]], None], grace_s: float, *, draining: bool = False
    ) -> None:
        self.draining = draining
        self._stopped = False
        self._send = send
        self._grace_s = grace_s
        self._uvicorn: uvicorn.Server | None = None
        self._ids = itertools.count()
        self._replies: dict[int, asyncio.Future[dict[str, Any]]] = {}

    async def serve(self, api: ASGIApp, listener: socket.socket) -> None:
        """Serve until ``stop``."""
        config = uvicorn.Config(
            api,
            http=Protocol,
            access_log=False,
            log_config=None,
            lifespan="off",
            server_header=False,
            timeout_keep_alive=_KEEP_ALIVE_S,
            timeout_graceful_shutdown=round(self._grace_s),
        )
        self._uvicorn = _Quiet(config)
        self._uvicorn.should_exit = self._stopped  # it may have been told so before it began
        await self._uvicorn.serve(sockets=[listener])

    def take(self, line: dict[str, Any]) -> None:
        """A line from the parent."""
        if line["kind"] == "drain":
            self.draining = True
        elif line["kind"] in {"page", "done"}:
            reply = self._replies.pop(line["id"])
            if not reply.done():  # who asked may have gone
                reply.set_result(line)

    def stop(self) -> None:
        """Accept nothing more, finish what is in flight, and end."""
        self.draining = self._stopped = True
        if self._uvicorn:
            self._uvicorn.should_exit = True
        for reply in self._replies.values():
            if not reply.done():
                reply.set_exception(_no_reply())

    async def scrape(self) -> str:
        """The metrics page, which the parent owns.

        Raises:
            Draining: the parent is no longer heard.
        """
        page: str = (await self._ask({"kind": "scrape"}))["text"]
        return page

    async def manage(self, action: Action, model: str) -> None:
        """Have the parent load or unload a model, in all workers.

        Raises:
            Draining: the parent is no longer heard.
            CamserveError: it cannot be done; the error says why.
        """
        reply = await self._ask({"kind": "manage", "action": action, "name": model})
        if reply["error"]:
            raise error_from_line(reply["error"])

    async def _ask(self, line: dict[str, Any]) -> dict[str, Any]:
        if self._stopped:
            raise _no_reply()
        number = next(self._ids)
        reply: asyncio.Future[dict[str, Any]] = asyncio.get_running_loop().create_future()
        self._replies[number] = reply
        self._send({**line, "id": number})
        return await reply


def _no_reply() -> Draining:
    return Draining("The service is ending; what was asked can no longer be answered.")


class _Quiet(uvicorn.Server):
    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield  # signals go to the parent
