"""A worker's connections to http processes: one thread reads all of them, and any thread writes.

Python lets one thread run at a time, and takes turns wherever one of them reads or writes: with a
thread for each connection, those that drive the device waited for them all.
"""

import logging
import selectors
import socket
import struct
from collections.abc import Callable
from contextlib import suppress
from threading import Lock, Thread

from app.engine.wire import Frame, Inbox, Message, widen

log = logging.getLogger(__name__)

# Seconds and microseconds. An http process that reads nothing for so long is as good as dead.
_SEND_TIMEOUT = (5, 0)


class Connection:
    """One http process."""

    def __init__(self, accepted: socket.socket) -> None:
        widen(accepted)
        timeout = struct.pack("ll", *_SEND_TIMEOUT)
        accepted.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, timeout)
        self._socket = accepted
        self._inbox = Inbox()
        self._lock = Lock()

    def fileno(self) -> int:
        """For a selector."""
        return self._socket.fileno()

    def read(self) -> list[Message]:
        """As ``Inbox.read``."""
        return self._inbox.read(self._socket)

    def send(self, frames: list[Frame]) -> None:
        """Write a message; where nobody reads any more, the reading thread is told to give up."""
        with self._lock, suppress(OSError):
            try:
                self._socket.sendall(b"".join(frames))
            except OSError:
                self._socket.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        """Hang up."""
        self._socket.close()


class Connections:
    """All of a worker's.

    Args:
        greeting: the first message to each, and to all when it has changed.
        take: is given what comes, by the reading thread.
        lost: is told of a connection that has ended.
    """

    def __init__(
        self,
        greeting: Callable[[], list[Frame]],
        take: Callable[[Connection, Message], None],
        lost: Callable[[Connection], None],
    ) -> None:
        self._greeting = greeting
        self._take = take
        self._lost = lost
        self._all: set[Connection] = set()
        self._lock = Lock()
        self._thread: Thread | None = None

    def start(self, listener: socket.socket) -> None:
        """Accept and read, in a thread."""
        self._thread = Thread(target=self._listen, args=(listener,), daemon=True)
        self._thread.start()

    def are_read(self) -> bool:
        """Whether that thread is still there."""
        return self._thread is not None and self._thread.is_alive()

    def greet(self) -> None:
        """Send the greeting to all."""
        with self._lock:  # one after the other: an older one must not come last
            for connection in self._all:
                connection.send(self._greeting())

    def _listen(self, listener: socket.socket) -> None:
        try:
            self._serve(listener)
        finally:  # nobody will read them: http processes should know now
            for connection in self._all:
                connection.close()

    def _serve(self, listener: socket.socket) -> None:
        with selectors.DefaultSelector() as selector:
            selector.register(listener, selectors.EVENT_READ)
            while True:
                for key, _ in selector.select():
                    if isinstance(key.fileobj, Connection):
                        if not self._read(key.fileobj):
                            selector.unregister(key.fileobj)
                            key.fileobj.close()
                    else:
                        selector.register(self._accept(listener), selectors.EVENT_READ)

    def _accept(self, listener: socket.socket) -> Connection:
        accepted, _ = listener.accept()
        connection = Connection(accepted)
        with self._lock:
            self._all.add(connection)
            connection.send(self._greeting())
        return connection

    def _read(self, connection: Connection) -> bool:
        """Take what has come; whether more can."""
        try:
            for message in connection.read():
                self._take(connection, message)
        except (EOFError, OSError):
            log.info("an http process hung up")
        except Exception:
            log.exception("an http process is not understood: its line is cut")
        else:
            return True
        with self._lock:
            self._all.discard(connection)
        self._lost(connection)
        return False
