"""A socket for each http process."""

import socket
from contextlib import ExitStack

import pytest

from app.engine.listening import listen, listen_again, refuse
from app.errors import SetupError
from tests.server import accept_all


def test_a_free_port_is_bound_and_a_taken_one_is_named() -> None:
    with ExitStack() as open_sockets:
        listeners = [open_sockets.enter_context(s) for s in listen("127.0.0.1", 0, 2)]
        (port,) = {listener.getsockname()[1] for listener in listeners}
        with socket.create_connection(("127.0.0.1", port)):
            pass
        with pytest.raises(SetupError, match=str(port)):
            listen("127.0.0.1", port, 2)


def test_connections_are_dealt_out_among_the_http_processes() -> None:
    with ExitStack() as open_sockets:
        listeners = [open_sockets.enter_context(s) for s in listen("127.0.0.1", 0, 3)]
        for _ in range(90):
            client = socket.create_connection(listeners[0].getsockname())
            open_sockets.enter_context(client)
        shares = [accept_all(listener) for listener in listeners]
    assert sum(shares) == 90
    assert min(shares) >= 10


def test_connections_are_dealt_to_other_places_while_one_is_not_filled() -> None:
    with ExitStack() as stack:
        one, other = [stack.enter_context(s) for s in listen("127.0.0.1", 0, 2)]

        def shares() -> list[int]:
            for _ in range(40):
                stack.enter_context(socket.create_connection(other.getsockname()))
            return [accept_all(one), accept_all(other)]

        refuse(one)
        assert shares() == [0, 40]
        listen_again(one)
        assert min(shares()) >= 3
