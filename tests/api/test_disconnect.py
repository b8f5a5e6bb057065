"""Clients that hang up, messages passed by hand."""

import asyncio

import pytest
from starlette.types import Message, Receive, Scope, Send

from app.api.keys import Keyed
from app.api.limits import Bounded, Guarded, HeadAsGet, Identified
from app.metrics import Metrics
from tests.api.client import EXPLAIN, PHOTO, Wire, make_api
from tests.fakes import FakeEngine


def test_a_client_that_hangs_up_cancels_its_job() -> None:
    async def scenario() -> None:
        engine = FakeEngine(gate=asyncio.Event())
        api, wire = make_api(engine=engine), Wire()
        wire.body(PHOTO)
        call = asyncio.create_task(wire.call(api.asgi))
        await asyncio.wait_for(engine.begun.wait(), 10)
        wire.hang_up()
        await asyncio.wait_for(call, 10)
        await asyncio.sleep(0)
        assert engine.cancelled == engine.jobs
        assert api.counted() == [(EXPLAIN, "499")]

    asyncio.run(scenario())


def test_a_client_that_hangs_up_on_predict_is_dropped_too() -> None:
    async def scenario() -> None:
        engine = FakeEngine(gate=asyncio.Event())
        api, wire = make_api(engine=engine), Wire(path="/api/v1/predict")
        wire.body(PHOTO)
        call = asyncio.create_task(wire.call(api.asgi))
        await asyncio.wait_for(engine.begun.wait(), 10)
        wire.hang_up()
        await asyncio.wait_for(call, 10)
        assert wire.status == 499

    asyncio.run(scenario())


def test_a_client_that_hangs_up_while_it_sends_is_no_fault_of_ours(
    caplog: pytest.LogCaptureFixture,
) -> None:
    api, wire = make_api(), Wire()
    wire.body(PHOTO[:20], more=True)
    wire.hang_up()
    asyncio.run(asyncio.wait_for(wire.call(api.asgi), 10))
    assert wire.sent == []
    assert api.engine.jobs == []
    assert api.counted() == [(EXPLAIN, "499")]
    assert "unexpected" not in caplog.text


def test_a_request_that_the_server_cancels_takes_its_job_with_it() -> None:
    async def scenario() -> None:
        engine = FakeEngine(gate=asyncio.Event())
        api, wire = make_api(engine=engine), Wire()
        wire.body(PHOTO)
        call = asyncio.create_task(wire.call(api.asgi))
        await asyncio.wait_for(engine.begun.wait(), 10)
        call.cancel()
        await asyncio.gather(call, return_exceptions=True)
        await asyncio.sleep(0)
        assert engine.cancelled == engine.jobs

    asyncio.run(scenario())


def test_an_answer_that_breaks_off_is_not_mended_with_a_problem() -> None:
    async def half(_scope: Scope, _receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        raise RuntimeError("half-way")

    wire = Wire()
    with pytest.raises(RuntimeError, match="half-way"):
        asyncio.run(wire.call(Guarded(half)))
    assert len(wire.sent) == 1


def test_what_is_not_http_passes_through_the_door_untouched() -> None:
    seen: list[Scope] = []

    async def inner(scope: Scope, _receive: Receive, _send: Send) -> None:
        seen.append(scope)

    async def receive() -> Message:
        raise AssertionError

    async def send(_message: Message) -> None:
        raise AssertionError

    events: list[object] = []
    bounded = Bounded(HeadAsGet(Keyed(inner, ["k"], ())), 1, 1, 1)
    door = Identified(bounded, Metrics(events.append), lambda: False)
    scope: Scope = {"type": "lifespan"}
    asyncio.run(door(scope, receive, send))
    assert seen == [scope]
    assert events == []
