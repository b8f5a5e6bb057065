"""Bodies that wait for room."""

import asyncio
from collections.abc import Coroutine
from contextlib import ExitStack
from typing import Any

import pytest

from app.api.room import Place, Room
from app.errors import Overloaded


def run(scenario: Coroutine[Any, Any, None]) -> None:
    asyncio.run(scenario)


async def take(place: Place, size: int, *, complete: bool = False) -> None:
    await place.ready()
    place.take(size, complete=complete)


async def is_waiting(task: "asyncio.Task[Any]") -> bool:
    for _ in range(5):
        await asyncio.sleep(0)
    return not task.done()


def test_a_body_waits_until_one_that_was_complete_is_answered() -> None:
    async def scenario() -> None:
        room = Room(100, 60)
        with room.place() as second:
            with room.place() as first:
                await take(first, 100, complete=True)
                waiting = asyncio.create_task(second.ready())
                assert await is_waiting(waiting)
            assert await waiting >= 0

    run(scenario())


def test_if_nobody_is_complete_the_oldest_goes_on_and_the_others_wait() -> None:
    async def scenario() -> None:
        room = Room(100, 60)
        with room.place() as other, room.place() as oldest:
            await take(oldest, 60)
            await take(other, 60)
            waiting = asyncio.create_task(other.ready())
            assert await is_waiting(waiting)
            await take(oldest, 500, complete=True)
            assert await is_waiting(waiting), "what is complete makes room by itself"
            waiting.cancel()

    run(scenario())


def test_once_the_oldest_has_gone_the_next_one_goes_on() -> None:
    async def scenario() -> None:
        room = Room(100, 60)
        with ExitStack() as stack, room.place() as next_one:
            oldest = stack.enter_context(room.place())
            await take(oldest, 60)
            await take(next_one, 100)
            waiting = asyncio.create_task(next_one.ready())
            assert await is_waiting(waiting)
            stack.close()  # its client hung up
            await waiting

    run(scenario())


def test_who_waits_too_long_is_told_to_come_again() -> None:
    async def scenario() -> None:
        room = Room(100, 0)
        with room.place() as first, room.place() as second:
            await take(first, 100, complete=True)
            with pytest.raises(Overloaded) as refused:
                await second.ready()
            assert refused.value.retry_after == 1

    run(scenario())


def test_a_request_without_a_body_has_no_place() -> None:
    async def scenario() -> None:
        room = Room(100, 60)
        with room.place(), room.place() as body:
            await take(body, 500)
            await asyncio.wait_for(body.ready(), 1)  # it is the oldest one that counts

    run(scenario())
