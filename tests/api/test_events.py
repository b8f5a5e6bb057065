"""Answers as server-sent events."""

import asyncio
import json
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest

from app.api import events
from app.api.events import stream
from app.api.schemas import ExplainResponse, Problem
from app.errors import NonFiniteOutput
from app.types import Progress
from tests.api.client import EXPLAIN, PHOTO, Api, Wire, make_api
from tests.fakes import FakeEngine

ASK = {"Accept": "text/event-stream"}


def read(text: str) -> list[tuple[str, dict[str, Any]]]:
    """The events, each as its name and its JSON."""
    found = []
    for block in text.removesuffix("\n\n").split("\n\n"):
        if block.startswith(":"):
            continue
        name, data = block.split("\n")
        found.append((name.removeprefix("event: "), json.loads(data.removeprefix("data: "))))
    return found


def test_progress_is_told_and_then_the_result(api: Api) -> None:
    response = api.raw(headers=ASK, method="lime")
    assert response.headers["Content-Type"].startswith("text/event-stream")
    assert response.headers["X-Accel-Buffering"] == "no"
    *progress, (name, result) = read(response.text)
    assert progress == [("progress", {"done": done, "total": 3}) for done in range(3)]
    assert name == "result"
    assert ExplainResponse.model_validate(result).explanations[0].method == "lime"


def test_a_fast_method_has_a_result_alone(api: Api) -> None:
    assert [name for name, _ in read(api.raw(headers=ASK).text)] == ["result"]


@pytest.mark.parametrize(
    ("error", "code"), [(NonFiniteOutput("no"), "non_finite_output"), (OSError(), "internal_error")]
)
def test_what_goes_wrong_on_the_way_is_an_event_of_its_own(
    api: Api, error: Exception, code: str
) -> None:
    api.engine.error = error
    response = api.raw(headers=ASK)
    ((name, problem),) = read(response.text)
    assert (response.status_code, name) == (200, "error")
    told = Problem.model_validate(problem)
    assert (told.code, told.request_id) == (code, response.headers["X-Request-ID"])


def test_what_is_wrong_with_the_request_is_a_plain_error(api: Api) -> None:
    response = api.raw(headers=ASK, alpha=2)
    assert (response.status_code, response.json()["code"]) == (422, "invalid_option")


def test_a_long_silence_is_broken_by_comments(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(events, "_COMMENT_S", 0.01)

    async def scenario() -> bytes:
        engine = FakeEngine(gate=asyncio.Event())
        api, wire = make_api(engine=engine), Wire(headers=ASK)
        wire.body(PHOTO)
        call = asyncio.create_task(wire.call(api.asgi))
        while not any(b": still" in m.get("body", b"") for m in wire.sent):  # noqa: ASYNC110
            await asyncio.sleep(0.005)
        assert engine.gate is not None
        engine.gate.set()
        await asyncio.wait_for(call, 30)
        return wire.answer

    assert read(asyncio.run(scenario()).decode())[-1][0] == "result"


@dataclass
class Begun:
    """A request for events whose job has begun, and does not end."""

    api: Api
    wire: Wire
    call: "asyncio.Task[None]"


async def begin() -> Begun:
    engine = FakeEngine(gate=asyncio.Event())
    api, wire = make_api(engine=engine), Wire(headers=ASK)
    wire.body(PHOTO)
    call = asyncio.create_task(wire.call(api.asgi))
    await asyncio.wait_for(engine.begun.wait(), 10)
    return Begun(api, wire, call)


def test_a_client_that_hangs_up_ends_the_work() -> None:
    async def scenario() -> None:
        begun = await begin()
        begun.wire.hang_up()
        await asyncio.wait_for(begun.call, 10)
        await asyncio.sleep(0)
        assert begun.api.engine.cancelled == begun.api.engine.jobs
        assert asyncio.all_tasks() == {asyncio.current_task()}
        assert begun.api.counted() == [(EXPLAIN, "200")]

    asyncio.run(scenario())


def test_a_stream_that_outlasts_the_server_ends_with_an_error() -> None:
    async def scenario() -> str:
        begun = await begin()
        begun.call.cancel()
        await asyncio.gather(begun.call, return_exceptions=True)
        return begun.wire.answer.decode()

    name, content = read(asyncio.run(scenario()))[-1]
    assert (name, content["code"]) == ("error", "draining")


def test_progress_that_comes_together_with_the_result_is_told() -> None:
    async def work(tell: Callable[[Progress], None]) -> bytes:
        tell(Progress(1, 2))
        tell(Progress(2, 2))
        return b"{}"

    async def told() -> str:
        pieces = [bytes(piece) async for piece in stream(work).body_iterator]  # type: ignore[arg-type]
        return b"".join(pieces).decode()

    names = [name for name, _ in read(asyncio.run(told()))]
    assert names == ["progress", "progress", "result"]
