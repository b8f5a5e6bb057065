import asyncio
import socket
from typing import Any

import pytest
from fastapi import FastAPI

from app.api.server import HttpServer
from app.errors import Draining, LoadFailed


def test_the_metrics_page_comes_from_the_parent() -> None:
    async def scenario() -> None:
        asked: asyncio.Queue[dict[str, Any]] = asyncio.Queue()
        server = HttpServer(asked.put_nowait, 1)
        pages = [asyncio.create_task(server.scrape()) for _ in range(2)]
        first, second = await asked.get(), await asked.get()
        for line in (second, first):
            server.take({"kind": "page", "id": line["id"], "text": f"page {line['id']}"})
        assert await asyncio.gather(*pages) == [f"page {first['id']}", f"page {second['id']}"]

    asyncio.run(scenario())


def test_a_page_that_nobody_waits_for_any_more_does_no_harm() -> None:
    async def scenario() -> None:
        asked: asyncio.Queue[dict[str, Any]] = asyncio.Queue()
        server = HttpServer(asked.put_nowait, 1)
        page = asyncio.create_task(server.scrape())
        line = await asked.get()
        page.cancel()
        with pytest.raises(asyncio.CancelledError):
            await page
        server.take({"kind": "page", "id": line["id"], "text": ""})

    asyncio.run(scenario())


def test_once_it_stops_nobody_waits_for_a_page_that_cannot_come() -> None:
    async def scenario() -> None:
        asked: asyncio.Queue[dict[str, Any]] = asyncio.Queue()
        server = HttpServer(asked.put_nowait, 1)
        pages = [asyncio.create_task(server.scrape()) for _ in range(2)]
        await asked.get()
        await asked.get()
        pages[0].cancel()
        await asyncio.gather(pages[0], return_exceptions=True)
        server.stop()
        for page in (pages[1], server.scrape()):
            with pytest.raises(Draining):
                await page

    asyncio.run(scenario())


def test_a_server_that_was_stopped_before_it_began_ends_at_once() -> None:
    async def scenario() -> None:
        server = HttpServer(lambda _line: None, 1)
        server.stop()
        with socket.create_server(("127.0.0.1", 0)) as listener:
            await asyncio.wait_for(server.serve(FastAPI(), listener), 30)

    asyncio.run(scenario())


def test_the_parent_loads_models_and_says_why_it_cannot() -> None:
    async def scenario() -> None:
        asked: asyncio.Queue[dict[str, Any]] = asyncio.Queue()
        server = HttpServer(asked.put_nowait, 1)
        for error in (None, LoadFailed("no weights").as_line()):
            loading = asyncio.create_task(server.manage("load", "m"))
            line = await asked.get()
            assert (line["kind"], line["action"], line["name"]) == ("manage", "load", "m")
            server.take({"kind": "done", "id": line["id"], "error": error})
            if error:
                with pytest.raises(LoadFailed, match="no weights"):
                    await loading
            else:
                await loading

    asyncio.run(scenario())


def test_it_is_draining_when_the_parent_says_so_and_when_it_stops() -> None:
    told, stopped = HttpServer(lambda _line: None, 1), HttpServer(lambda _line: None, 1)
    assert not told.draining
    told.take({"kind": "drain"})
    stopped.stop()
    assert told.draining
    assert stopped.draining
