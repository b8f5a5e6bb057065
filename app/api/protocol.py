"""uvicorn's HTTP protocol, until a request's head is read: what is no HTTP, endless, or slow.

All later refusals are the middlewares'; see ``limits.py``. Two things uvicorn leaves to others: a
wish for another protocol is passed over, and what stands behind a body is no header.
"""

import asyncio
import uuid

import httptools
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol, RequestResponseCycle

from app.api.errors import problem
from app.errors import BadRequest, BodyTooSlow, CamserveError, HeadersTooLarge
from app.logs import request_id

_MAX_BESIDE_BODY = 64 * 1024  # bytes read with no end of a head, and no body, found in them
_HEAD_S = 15.0  # from the connection, or from a later request's first byte


class Protocol(HttpToolsProtocol):
    """One connection. A request's head must come whole, in time, and be HTTP."""

    _unread = 0  # bytes since the end of a head, or since some of a body
    _in_head = True
    _timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._begin_head()

    def connection_lost(self, exc: Exception | None) -> None:
        self._end_head()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        self._unset_keepalive_if_required()
        rest = memoryview(data)
        while rest:
            rest = self._feed(rest)
        if self._unread > _MAX_BESIDE_BODY:
            self._refuse(
                HeadersTooLarge(f"Address, headers or trailers are over {_MAX_BESIDE_BODY} bytes.")
            )

    def _feed(self, data: memoryview) -> memoryview:
        """Parse; what is left to parse, behind a wish for another protocol."""
        self._unread += len(data)
        try:
            self.parser.feed_data(data)
        except httptools.HttpParserUpgrade as upgrade:
            if self._stay():
                return data[upgrade.args[0] :]
        except httptools.HttpParserError:
            self._refuse(BadRequest("What came is not HTTP/1.1."))
        return data[:0]

    def on_message_begin(self) -> None:
        super().on_message_begin()
        if not self._in_head:
            self._begin_head()
        self._unread = 1  # its first byte, at least

    def on_header(self, name: bytes, value: bytes) -> None:
        if self._in_head:  # a trailer could claim to be a key (RFC 9110, section 6.5.1)
            super().on_header(name, value)

    def on_headers_complete(self) -> None:
        if not self.parser.should_upgrade():
            self._end_head()
            super().on_headers_complete()

    def on_body(self, body: bytes) -> None:
        self._unread = 0
        super().on_body(body)

    def on_message_complete(self) -> None:
        if not self.parser.should_upgrade():
            self._unread = 0
            super().on_message_complete()

    def _stay(self) -> bool:
        """Go on with HTTP/1.1, as a server may (RFC 9110, section 7.8); a body may follow.

        Java's ``HttpClient`` and ``curl --http2`` ask for HTTP/2 so. The parser takes what comes
        next for the other protocol; another one is given the same head without that wish.
        """
        method, version = self.parser.get_method(), self.parser.get_http_version().encode()
        fields = b"".join(
            name + b": " + value + b"\r\n" for name, value in self.headers if name != b"upgrade"
        )
        head = b"%s %s HTTP/%s\r\n%s\r\n" % (method, self.url, version, fields)
        self.parser = httptools.HttpRequestParser(self)
        try:
            self.parser.feed_data(head)
        except (httptools.HttpParserError, httptools.HttpParserUpgrade):  # such as CONNECT
            self._refuse(BadRequest("What came is not HTTP/1.1, or asks for a tunnel."))
            return False
        return True

    def _begin_head(self) -> None:
        self._in_head, self._unread = True, 0
        self._wait_for_head()

    def _wait_for_head(self) -> None:
        self._timer = self.loop.call_later(_HEAD_S, self._too_slow)

    def _end_head(self) -> None:
        self._in_head, self._unread = False, 0
        if self._timer:
            self._timer.cancel()

    def _too_slow(self) -> None:
        if self._is_answering:
            self._wait_for_head()  # nothing is read while another request is answered
        elif self._unread:
            self._refuse(BodyTooSlow("The request's head did not arrive in time."))
        else:
            self.transport.close()  # a connection that nothing came over

    @property
    def _is_answering(self) -> bool:
        """Whether a request before the one that is being read has not been answered yet.

        ``cycle`` is the newest whose head was read; older ones, and it, may wait in ``pipeline``.
        """
        cycle: RequestResponseCycle | None = self.cycle
        if cycle is None or cycle.response_complete:
            return False
        return bool(self.pipeline) or not cycle.more_body

    def _refuse(self, error: CamserveError) -> None:
        if self.transport.is_closing():
            return
        cycle: RequestResponseCycle | None = self.cycle
        if cycle and self._is_answering:
            cycle.keep_alive = False  # its answer is the connection's last
            self.flow.pause_reading()
            return
        if cycle and cycle.response_started and not cycle.response_complete:
            self.transport.close()  # half an answer cannot be taken back
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
