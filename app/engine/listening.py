"""The sockets that http processes listen at: one for each place, made by the parent.

Linux deals the connections out among them. At one socket for all, whoever is awake takes what
comes: half of 192 connections for one of eight processes.
"""

import socket
from collections.abc import Sequence
from contextlib import suppress

from app.errors import SetupError

_BACKLOG = 1024  # connections that wait at one of them


def listen(host: str, port: int, places: int) -> list[socket.socket]:
    """Bind the port once for each place.

    Raises:
        SetupError: naming the address that is taken or wrong.
    """
    try:
        family, *_, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        with socket.create_server(address[:2], family=family) as first:  # not beside another server
            first.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
            address = first.getsockname()
            return [
                socket.create_server(address[:2], family=family, reuse_port=True, backlog=_BACKLOG)
                for _ in range(places)
            ]
    except OSError as exc:
        raise SetupError(f"cannot listen on {host}:{port}: {exc}") from exc


def own_listener(descriptors: Sequence[int], number: int) -> socket.socket:
    """That of one place; who waits at another must not depend on this process."""
    listeners = [socket.socket(fileno=descriptor) for descriptor in descriptors]
    own = listeners.pop(number)
    for other in listeners:
        other.close()
    return own


def refuse(listener: socket.socket) -> None:
    """Let callers go to other places; those that wait here are refused."""
    with suppress(OSError):  # what only Linux does: elsewhere they wait
        listener.shutdown(socket.SHUT_RD)


def listen_again(listener: socket.socket) -> None:
    """After ``refuse``."""
    listener.listen(_BACKLOG)
