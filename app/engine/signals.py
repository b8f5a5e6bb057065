"""The parent's signals, as futures to wait for."""

import asyncio
import signal
from collections.abc import Coroutine, Sequence
from typing import Any


def signals() -> tuple["asyncio.Future[signal.Signals]", "asyncio.Future[signal.Signals]"]:
    """Futures of the first and of the second signal to end."""
    loop = asyncio.get_running_loop()
    first, second = loop.create_future(), loop.create_future()

    def on_signal(number: signal.Signals) -> None:
        future = second if first.done() else first
        if not future.done():
            future.set_result(number)

    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, on_signal, number)
    return first, second


async def first_of(
    received: "asyncio.Future[signal.Signals]", keepers: Sequence[asyncio.Task[None]]
) -> signal.Signals:
    """The signal that came; a keeper that fails instead ends the service with its error."""
    waiting: list[asyncio.Future[Any]] = [received, *keepers]
    await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
    for keeper in keepers:
        if keeper.done():
            keeper.result()
    return await received


async def either(work: Coroutine[None, None, None], stop: "asyncio.Future[signal.Signals]") -> None:
    """Do the work, unless ``stop`` comes first."""
    task = asyncio.create_task(work)
    waiting: list[asyncio.Future[Any]] = [task, stop]
    await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
    task.cancel()
    await task
