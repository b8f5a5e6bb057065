"""Bytes on a connection: what uvicorn would take for something else."""

import asyncio
import re
import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress

import pytest
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.types import Receive, Scope, Send

from app.api import protocol
from app.api.server import HttpServer

Scenario = Callable[["Line"], Awaitable[None]]

WISH = b"Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABk\r\n"
CHUNKED = b"POST /x HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n"
GET = b"GET /next HTTP/1.1\r\nHost: a\r\n\r\n"


def post(body: bytes, more: bytes = b"") -> bytes:
    length = str(len(body)).encode()
    return (
        b"POST /x HTTP/1.1\r\nHost: a\r\n"
        + more
        + b"Content-Length: "
        + length
        + b"\r\n\r\n"
        + body
    )


class Line:
    """A connection to an application that tells what it was asked; it waits for ``gate``."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader, self.writer = reader, writer
        self.gate, self.asked = asyncio.Event(), asyncio.Event()
        self.gate.set()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        request = Request(scope, receive)
        self.asked.set()
        body = await request.body()
        await self.gate.wait()
        told = {"path": scope["path"], "bytes": len(body), "headers": request.headers.keys()}
        await JSONResponse(told)(scope, receive, send)

    async def answer(self) -> tuple[int, str]:
        async with asyncio.timeout(30):
            head = (await self.reader.readuntil(b"\r\n\r\n")).decode()
            length = re.search(r"content-length: (\d+)", head, re.IGNORECASE)
            assert length, head
            body = await self.reader.readexactly(int(length[1]))
        return int(head.split()[1]), body.decode()

    async def ends(self) -> bool:
        async with asyncio.timeout(30):
            return await self.reader.read() == b""


def play(scenario: Scenario) -> None:
    async def run() -> None:
        async with connected() as line:
            await scenario(line)

    asyncio.run(run())


@asynccontextmanager
async def connected() -> AsyncIterator[Line]:
    lines: list[Line] = []

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await lines[0](scope, receive, send)

    server = HttpServer(lambda _line: None, 1)
    with socket.create_server(("127.0.0.1", 0)) as listener:
        serving = asyncio.create_task(server.serve(app, listener))
        reader, writer = await asyncio.open_connection(*listener.getsockname())
        lines.append(Line(reader, writer))
        try:
            yield lines[0]
        finally:
            writer.close()
            with suppress(ConnectionResetError, BrokenPipeError):
                await writer.wait_closed()
            server.stop()
            await serving


@pytest.mark.parametrize("apart", [False, True])
def test_a_wish_for_http_2_is_passed_over_and_its_body_read(apart: bool) -> None:
    async def scenario(line: Line) -> None:
        request = post(b"x" * 100_000, WISH)
        head = request.index(b"\r\n\r\n") + 4
        line.writer.write(request[:head] if apart else request)
        await line.asked.wait()
        line.writer.write(request[head:] + GET if apart else GET)
        status, told = await line.answer()
        assert (status, '"bytes":100000' in told, "upgrade" in told) == (200, True, False)
        assert '"path":"/next"' in (await line.answer())[1]

    play(scenario)


def test_many_wishes_at_once_are_passed_over_one_by_one() -> None:
    async def scenario(line: Line) -> None:
        line.writer.write(GET.replace(b"\r\n\r\n", b"\r\n" + WISH + b"\r\n") * 1500)
        for _ in range(1500):
            assert (await line.answer())[0] == 200

    play(scenario)


def test_a_head_that_stops_half_way_is_told_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(protocol, "_HEAD_S", 0.05)

    async def scenario(line: Line) -> None:
        line.writer.write(GET[:20])
        assert (await line.answer())[0] == 408
        assert await line.ends()

    play(scenario)


def test_a_tunnel_is_refused() -> None:
    async def scenario(line: Line) -> None:
        line.writer.write(b"CONNECT a:1 HTTP/1.1\r\nHost: a\r\n\r\n")
        assert (await line.answer())[0] == 400

    play(scenario)


def test_what_stands_behind_the_body_is_no_header() -> None:
    async def scenario(line: Line) -> None:
        line.writer.write(CHUNKED + b"X-API-Key: mine\r\n\r\n" + GET)
        status, told = await line.answer()
        assert (status, '"bytes":5' in told, "x-api-key" in told) == (200, True, False)
        assert (await line.answer())[0] == 200

    play(scenario)


def test_endless_trailers_are_cut_off() -> None:
    async def scenario(line: Line) -> None:
        line.writer.write(CHUNKED + b"a: b\r\n" * 50_000)
        with suppress(ConnectionResetError):  # it sends on, so the refusal may be lost
            assert (await line.answer())[0] == 431
            assert await line.ends()

    play(scenario)


def test_a_large_body_with_half_of_the_next_request_behind_it_is_answered() -> None:
    async def scenario(line: Line) -> None:
        line.writer.write(post(b"x" * 360_000) + GET[:20])
        assert '"bytes":360000' in (await line.answer())[1]
        line.writer.write(GET[20:])
        assert '"path":"/next"' in (await line.answer())[1]

    play(scenario)


def test_a_request_is_answered_before_what_is_wrong_behind_it_ends_the_connection() -> None:
    async def scenario(line: Line) -> None:
        line.gate.clear()
        line.writer.write(post(b"x") + b"?\r\n\r\n")
        await line.asked.wait()
        line.gate.set()
        assert (await line.answer())[0] == 200
        assert await line.ends()

    play(scenario)
