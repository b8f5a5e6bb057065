"""uvicorn's HTTP protocol, until a request's head is read: what is no HTTP, endless, or slow.

All later refusals are the middlewares'; see ``limits.py``.
"""

import asyncio
import uuid

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from app.api.errors import problem
from app.errors import BadRequest, BodyTooSlow, CamserveError, HeadersTooLarge
from app.logs import request_id

_MAX_HEAD_BYTES = (
    64 * 1024
)  # what is read before it is known whether it ends; then limits.py decides
_HEAD_S = 15.0  # from the connection, or from a later request's first byte


class Protocol(HttpToolsProtocol):
    """One connection. A request's head must come whole, in time, and be HTTP."""

    _unread = 0  # bytes of a head that has not ended
    _in_head = True
    _timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._begin_head()

    def connection_lost(self, exc: Exception | None) -> None:
        self._end_head()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        self._unread += len(data) if self._in_head else 0
        if self._unread > _MAX_HEAD_BYTES:
            self._refuse(HeadersTooLarge(f"Address and headers are over {_MAX_HEAD_BYTES} bytes."))

    def on_message_begin(self) -> None:
        super().on_message_begin()
        if not self._in_head:
            self._begin_head()

    def on_headers_complete(self) -> None:
        self._end_head()
        super().on_headers_complete()

    def send_400_response(self, msg: str) -> None:  # noqa: ARG002 - uvicorn's own words
        self._refuse(BadRequest("What came is not HTTP/1.1."))

    def _begin_head(self) -> None:
        self._in_head, self._unread = True, 0
        self._timer = self.loop.call_later(_HEAD_S, self._too_slow)

    def _end_head(self) -> None:
        self._in_head, self._unread = False, 0
        if self._timer:
            self._timer.cancel()

    def _too_slow(self) -> None:
        if self._unread:
            self._refuse(BodyTooSlow("The request's head did not arrive in time."))
        else:
            self.transport.close()  # a connection that nothing came over

    def _refuse(self, error: CamserveError) -> None:
        if self.transport.is_closing():
            return
        name = uuid.uuid4().hex
        request_id.set(name)
        response = problem(error)
        fields = [
            *response.raw_headers,
            (b"x-request-id", name.encode()),
            (b"connection", b"close"),
        ]
        head = b"".join(name + b": " + value + b"\r\n" for name, value in fields)
        status = f"HTTP/1.1 {error.status} {error.title}\r\n".encode()
        self.transport.write(status + head + b"\r\n" + bytes(response.body))
        self.transport.close()
