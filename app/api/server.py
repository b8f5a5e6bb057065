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
from app.errors import Draining

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
        self._pages: dict[int, asyncio.Future[str]] = {}

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
        await self._uvicorn.serve(sockets=[listener])

    def take(self, line: dict[str, Any]) -> None:
        """A line from the parent."""
        if line["kind"] == "drain":
            self.draining = True
        elif line["kind"] == "page":
            page = self._pages.pop(line["id"])
            if not page.done():  # who asked may have gone
                page.set_result(line["text"])

    def stop(self) -> None:
        """Accept nothing more, finish what is in flight, and end."""
        self.draining = self._stopped = True
        if self._uvicorn:
            self._uvicorn.should_exit = True
        for page in self._pages.values():
            if not page.done():
                page.set_exception(_no_page())

    async def scrape(self) -> str:
        """The metrics page, which the parent owns.

        Raises:
            Draining: the parent is no longer heard.
        """
        if self._stopped:
            raise _no_page()
        number = next(self._ids)
        page: asyncio.Future[str] = asyncio.get_running_loop().create_future()
        self._pages[number] = page
        self._send({"kind": "scrape", "id": number})
        return await page


def _no_page() -> Draining:
    return Draining("The service is ending; its counts are gone with it.")


class _Quiet(uvicorn.Server):
    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield  # signals go to the parent
