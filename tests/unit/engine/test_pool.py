"""What the parent decides by itself; its processes are tested in tests/e2e."""

import asyncio
import signal
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from app.engine.place import Place
from app.engine.pool import Pool
from app.engine.signals import first_of
from app.settings import Settings


@pytest.fixture
def pool(tmp_path: Path) -> Iterator[Pool]:
    with socket.socket() as listener:
        yield Pool(Settings(models_dir=tmp_path), {}, ["cpu"], [listener])


def test_a_process_that_did_its_work_is_started_again_at_once(pool: Pool) -> None:
    place = Place("worker", 0)
    assert [pool._backoff(place, worked=60) for _ in range(5)] == [0] * 5


def test_a_process_that_ends_again_and_again_is_given_ever_more_time_and_never_up(
    pool: Pool,
) -> None:
    place = Place("worker", 0)
    delays = [pool._backoff(place, worked=1) for _ in range(3000)]
    assert delays[0] == 0
    assert delays == sorted(delays)
    assert delays[-1] == 30
    assert pool._backoff(place, worked=60) == 0


def test_a_process_that_cannot_be_started_is_tried_again(
    pool: Pool, monkeypatch: pytest.MonkeyPatch
) -> None:
    place = Place("worker", 0)
    tries = 0

    async def live(_place: Place) -> float:
        nonlocal tries
        tries += 1
        if tries == 2:
            place.wanted = False
            return 60
        raise OSError("no memory")

    monkeypatch.setattr(pool, "_live", live)
    asyncio.run(asyncio.wait_for(pool._keep(place), 30))
    assert tries == 2


def test_a_fault_of_the_parents_own_ends_the_service_with_it() -> None:
    async def scenario() -> None:
        async def fail() -> None:
            raise RuntimeError("a fault")

        signals = asyncio.get_running_loop().create_future()
        with pytest.raises(RuntimeError, match="a fault"):
            await first_of(signals, [asyncio.create_task(fail())])

    asyncio.run(scenario())


def test_a_signal_is_waited_for_beside_the_processes() -> None:
    async def scenario() -> signal.Signals:
        signals = asyncio.get_running_loop().create_future()
        keeper = asyncio.create_task(asyncio.Event().wait())
        asyncio.get_running_loop().call_soon(signals.set_result, signal.SIGTERM)
        try:
            return await first_of(signals, [keeper])  # type: ignore[list-item]
        finally:
            keeper.cancel()

    assert asyncio.run(scenario()) == signal.SIGTERM
