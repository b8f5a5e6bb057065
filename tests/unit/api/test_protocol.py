"""Connections that do not bring a request: no HTTP, no end, no hurry."""

import asyncio
import json
from collections.abc import Awaitable, Callable

import pytest
import uvicorn
from starlette.responses import PlainTextResponse
from uvicorn.server import ServerState

from app.api import protocol
from app.api.protocol import Protocol
from app.api.schemas import Problem

Talk = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


def talk(scenario: Talk) -> None:
    """Serve a connection, and hold a conversation over it."""

    async def run() -> None:
        config = uvicorn.Config(PlainTextResponse("well"), http=Protocol, lifespan="off")
        config.load()
        loop = asyncio.get_running_loop()
        server = await loop.create_server(
            lambda: Protocol(config, ServerState(), {}, loop), "127.0.0.1", 0
        )
        reader, writer = await asyncio.open_connection(*server.sockets[0].getsockname())
        try:
            async with asyncio.timeout(30):
                await scenario(reader, writer)
        finally:
            writer.close()
            server.close()

    asyncio.run(run())


def assert_refused(answer: bytes, status: int) -> None:
    head, _, body = answer.partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 %d " % status)
    fields = dict(line.lower().split(b": ", 1) for line in head.split(b"\r\n")[1:])
    assert fields[b"content-type"] == b"application/problem+json"
    assert fields[b"connection"] == b"close"
    problem = Problem.model_validate(json.loads(body))
    assert problem.status == status
    assert problem.request_id == fields[b"x-request-id"].decode() != "-"


def test_what_is_no_http_is_told_so_in_our_shape() -> None:
    async def scenario(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"\x16\x03\x01 hello\r\n\r\n")
        assert_refused(await reader.read(), 400)

    talk(scenario)


@pytest.mark.parametrize("start", [b"GET /", b"GET / HTTP/1.1\r\nX: "])
def test_a_head_without_end_is_cut(start: bytes) -> None:
    async def scenario(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(start.ljust(protocol._MAX_HEAD_BYTES + 1, b"x"))
        assert_refused(await reader.read(), 431)

    talk(scenario)


def test_a_head_that_comes_with_a_large_body_is_no_large_head() -> None:
    async def scenario(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        for _ in range(2):  # and so is the next one
            writer.write(b"POST / HTTP/1.1\r\nContent-Length: 200000\r\n\r\n" + bytes(200_000))
            assert b"200 OK" in await reader.readuntil(b"\r\n\r\n")
            assert await reader.readexactly(4) == b"well"

    talk(scenario)


def test_a_head_that_takes_too_long_is_cut(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(protocol, "_HEAD_S", 0.05)

    async def scenario(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"GET / HTTP/1.1\r\n")
        assert_refused(await reader.read(), 408)

    talk(scenario)


def test_a_connection_that_nothing_comes_over_is_closed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(protocol, "_HEAD_S", 0.05)

    async def scenario(reader: asyncio.StreamReader, _writer: asyncio.StreamWriter) -> None:
        assert await reader.read() == b""

    talk(scenario)


def test_time_between_requests_is_not_time_in_a_head(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(protocol, "_HEAD_S", 0.2)

    async def scenario(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        for _ in range(2):
            writer.write(b"GET / HTTP/1.1\r\n\r\n")
            await reader.readuntil(b"\r\n\r\n")
            await reader.readexactly(4)
            await asyncio.sleep(0.4)

    talk(scenario)
