"""The pipe between the parent and each child: JSON lines. Its end tells a child to end.

Each line has a ``kind``:

    to any child      start    the first one: all that it must know
    to http           workers  where they listen now
                      drain    the service is about to end: be not ready, and go on
                      stop     accept nothing more
                      page     the metrics that it asked for
                      done     what became of ``manage``
    to a worker       models   load, unload, list or forget one
    from any child    metrics  counted events
                      alive    a few times in ``APP_HANG_S``
    from http         scrape   asks for the metrics of all processes
                      manage   asks to load or unload a model in all workers
    from a worker     listening  it takes connections
                      done     what became of ``models``
"""

import asyncio
import json
import socket
from collections.abc import AsyncIterator, Iterator
from typing import Any

Line = dict[str, Any]

_LIMIT = 8 * 2**20  # a metrics page is one line


class Control:
    """One end of the pipe, on asyncio."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer

    @classmethod
    async def open(cls, end: socket.socket) -> "Control":
        return cls(*await asyncio.open_unix_connection(sock=end, limit=_LIMIT))

    def send(self, line: Line) -> None:
        """Queue a line; one to a pipe whose other end is gone is lost, as its reader is."""
        if not self._writer.is_closing():
            self._writer.write(_encode(line))

    async def lines(self) -> AsyncIterator[Line]:
        """The lines from the other end, until it is closed."""
        try:
            while (line := await self._reader.readline()).endswith(b"\n"):  # a part is a last gasp
                yield json.loads(line)
        except ConnectionResetError:
            return

    def close(self) -> None:
        self._writer.close()


class BlockingControl:
    """One end of the pipe, for a process of threads."""

    def __init__(self, end: socket.socket) -> None:
        self._socket = end
        self._file = end.makefile("rb")

    def send(self, line: Line) -> None:
        """Send a line; one to a parent that is gone is lost, as its reader is."""
        try:
            self._socket.sendall(_encode(line))
        except (BrokenPipeError, ConnectionResetError):
            return

    def receive(self) -> Line | None:
        """The next line, or None at the end."""
        try:
            line = self._file.readline()
        except ConnectionResetError:
            return None
        return json.loads(line) if line.endswith(b"\n") else None

    def lines(self) -> Iterator[Line]:
        """The lines from the other end, until it is closed."""
        while line := self.receive():
            yield line

    def close(self) -> None:
        self._file.close()
        self._socket.close()


def _encode(line: Line) -> bytes:
    return json.dumps(line).encode() + b"\n"
