"""The cheapest HTTP/1.1 client that is still honest: keep-alive, a request at a time.

It looks for the status and for the end of the answer, and keeps the body only where it is asked to.
"""

import asyncio
from typing import cast

_HEAD_END = b"\r\n\r\n"


class Connection(asyncio.Protocol):
    """Sends prebuilt requests; ``ask`` gives the status and, if kept, the body."""

    def __init__(self) -> None:
        self._transport: asyncio.Transport | None = None
        self._answer: asyncio.Future[tuple[int, bytes]] | None = None
        self._clear()

    @classmethod
    async def open(cls, port: int) -> "Connection":
        """A connection to a port of this machine."""
        loop = asyncio.get_running_loop()
        _, protocol = await loop.create_connection(cls, "127.0.0.1", port)
        return protocol

    @property
    def is_open(self) -> bool:
        """Whether another request may be sent."""
        return self._transport is not None and not self._transport.is_closing()

    async def ask(self, request: bytes, *, keep: bool = False) -> tuple[int, bytes]:
        """Send a request and wait for the end of its answer.

        Raises:
            ConnectionError: the server closed the connection first.
        """
        if not self.is_open:
            raise ConnectionResetError
        assert self._transport is not None  # noqa: S101 - it is open
        self._clear()
        self._keep = keep
        self._answer = asyncio.get_running_loop().create_future()
        self._transport.write(request)
        try:
            return await self._answer
        except asyncio.CancelledError:
            self.close()  # nobody reads the answer any more
            raise

    def close(self) -> None:
        if self._transport is not None:
            self._transport.abort()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)  # uvloop's is no subclass

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002 - why does not matter
        self._transport = None
        if self._answer is not None and not self._answer.done():
            self._answer.set_exception(ConnectionResetError())

    def data_received(self, data: bytes) -> None:
        if self._status == 0:
            self._head += data
            data = self._read_head()
        if self._status and self._chunked:
            self._read_chunks(data)
        elif self._status:
            self._take(data)
            if self._left == 0:
                self._finish()

    def _clear(self) -> None:
        self._head = b""
        self._rest = b""  # of chunked answers: the start of a size line
        self._body = bytearray()
        self._keep = False
        self._status = self._left = 0
        self._chunked = self._closes = False

    def _read_head(self) -> bytes:
        """What follows the head, once that is whole."""
        end = self._head.find(_HEAD_END)
        if end < 0:
            return b""
        lines = self._head[:end].lower().split(b"\r\n")
        fields = dict(line.split(b":", 1) for line in lines[1:])
        self._status = int(lines[0].split(b" ", 2)[1])
        self._chunked = b"chunked" in fields.get(b"transfer-encoding", b"")
        self._closes = b"close" in fields.get(b"connection", b"")
        self._left = int(fields.get(b"content-length", b"0"))
        return self._head[end + len(_HEAD_END) :]

    def _take(self, data: bytes) -> None:
        self._left -= len(data)
        if self._keep:
            self._body += data

    def _read_chunks(self, data: bytes) -> None:
        """``_left`` counts what is missing of a chunk and its line end."""
        data = self._rest + data
        while data:
            if self._left:
                part, data = data[: self._left], data[self._left :]
                self._take(part)
                if self._left == 0:
                    del self._body[-2:]  # the chunk's line end, where it was kept
                continue
            line, found, after = data.partition(b"\r\n")
            if not found:
                break
            size = int(line.split(b";")[0] or b"0", 16)
            if size == 0:
                if after.endswith(b"\r\n"):  # the end of the trailers
                    self._finish()
                    return
                break
            data, self._left = after, size + 2
        self._rest = data

    def _finish(self) -> None:
        answer, self._answer = self._answer, None
        if self._closes:
            self.close()
        if answer is not None and not answer.done():
            answer.set_result((self._status, bytes(self._body)))
