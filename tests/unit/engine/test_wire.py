"""What crosses the sockets comes out as it went in."""

import asyncio
import socket
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from app.engine.wire import (
    Frame,
    Inbox,
    Message,
    pack,
    pack_error,
    pack_job,
    pack_result,
    receive,
    unpack_error,
    unpack_job,
    unpack_result,
)
from app.errors import CamserveError, ModelNotLoaded
from app.types import ClassMap, Job, JobResult

Ends = tuple[socket.socket, socket.socket]


@pytest.fixture
def ends() -> Iterator[Ends]:
    one, other = socket.socketpair()
    with one, other:
        other.settimeout(30)
        yield one, other


def sent(frames: list[Frame]) -> Message:
    (message,) = read_all(b"".join(frames))
    return message


def read_all(data: bytes) -> list[Message]:
    one, other = socket.socketpair()
    inbox, messages = Inbox(), list[Message]()

    def send() -> None:
        with one:
            one.sendall(data)

    with other, ThreadPoolExecutor(1) as sender:
        sender.submit(send)
        try:
            while True:
                messages += inbox.read(other)
        except EOFError:
            return messages


def test_a_job_arrives_as_it_was_sent() -> None:
    pixels = np.arange(5 * 4 * 3, dtype=np.uint8).reshape(5, 4, 3)
    job = Job(
        model="m",
        version="v",
        pixels=pixels,
        deadline=12.5,
        classes=("top3", 7),
        methods=("gradcam",),
        layers=("layer3", "layer4"),
        against=(3,),
        needs=("inputs",),
        alone=True,
    )
    header, frames = sent(pack_job(9, job))
    arrived = unpack_job(header, frames)
    assert header["id"] == 9
    np.testing.assert_array_equal(arrived.pixels, pixels)
    assert (arrived.classes, arrived.methods) == (("top3", 7), ("gradcam",))
    assert (arrived.deadline, arrived.alone) == (12.5, True)
    assert (arrived.layers, arrived.against, arrived.needs) == (
        ("layer3", "layer4"),
        (3,),
        ("inputs",),
    )


def test_pixels_that_are_not_contiguous_arrive_in_order() -> None:
    pixels = np.arange(60, dtype=np.uint8).reshape(5, 4, 3)[:, ::-1]
    job = Job(model="m", version="v", pixels=pixels, deadline=0)
    np.testing.assert_array_equal(unpack_job(*sent(pack_job(0, job))).pixels, pixels)


def test_a_result_arrives_to_the_last_bit() -> None:
    rng = np.random.default_rng(0)
    maps = tuple(
        ClassMap(index=i, method="gradcam", layer="l", values=rng.random((2, 3), np.float32))
        for i in range(2)
    )
    logits, scores = rng.random((2, 10), np.float32)
    result = JobResult(logits=logits, scores=scores, maps=maps, timings={"forward": 1.5})
    arrived = unpack_result(*sent(pack_result(1, result)))
    np.testing.assert_array_equal(arrived.logits, logits)
    np.testing.assert_array_equal(arrived.scores, scores)
    assert arrived.timings == {"forward": 1.5}
    for before, after in zip(maps, arrived.maps, strict=True):
        assert (after.index, after.method, after.layer) == (before.index, "gradcam", "l")
        np.testing.assert_array_equal(after.values, before.values)


def test_an_error_arrives_as_its_own_class() -> None:
    header, _ = sent(pack_error(1, ModelNotLoaded("gone")))
    error = unpack_error(header)
    assert isinstance(error, ModelNotLoaded)
    assert error.detail == "gone"


def test_every_error_survives_the_journey() -> None:
    def tree(cls: type[CamserveError]) -> list[type[CamserveError]]:
        return [cls, *(found for sub in cls.__subclasses__() for found in tree(sub))]

    for cls in tree(CamserveError):
        assert type(unpack_error(sent(pack_error(0, cls("x")))[0])) is cls


def test_both_readers_read_the_same() -> None:
    data = b"".join(pack({"kind": "cancel", "id": 3}, [b"abc", memoryview(b"")]))

    async def read() -> Message:
        reader = asyncio.StreamReader()
        reader.feed_data(data)
        return await receive(reader)

    assert [asyncio.run(read())] == read_all(data)


@pytest.mark.parametrize("cut", [0, 2, 10, -1])
def test_a_stream_cut_short_is_its_end(cut: int) -> None:
    whole = b"".join(pack({"kind": "x"}, [b"abcdef"]))
    assert len(read_all(whole + whole[:cut])) == 1


def test_messages_are_whole_wherever_the_stream_pauses(ends: Ends) -> None:
    one, other = ends
    first, second = (b"".join(pack({"kind": "x", "id": n}, [bytes([n] * n)])) for n in (5, 9))
    inbox, ids = Inbox(), list[int]()
    for byte in first + second:
        one.sendall(bytes([byte]))
        ids += [header["id"] for header, _ in inbox.read(other)]
    assert ids == [5, 9]


def test_what_comes_at_once_is_read_at_once(ends: Ends) -> None:
    one, other = ends
    inbox = Inbox()
    one.sendall(b"".join(b"".join(pack({"id": n}, [b"abc"])) for n in range(20)))
    assert [header["id"] for header, _ in inbox.read(other)] == list(range(20))


def test_a_message_may_be_larger_than_what_is_read_at_once() -> None:
    large = np.arange(3 * 2**19, dtype=np.uint8).tobytes()
    small = pack({"id": 1}, [b"abc"])
    messages = read_all(b"".join([*pack({"id": 0}, [large]), *small]))
    assert [header["id"] for header, _ in messages] == [0, 1]
    assert messages[0][1][0] == large


def test_frames_are_writable_and_stay_as_they_are(ends: Ends) -> None:
    one, other = ends
    inbox = Inbox()
    one.sendall(b"".join(pack({}, [b"abc"])))
    ((_, (frame,)),) = inbox.read(other)
    one.sendall(b"".join(pack({}, [b"xyz"])))
    inbox.read(other)
    assert isinstance(frame, bytearray)
    assert frame == b"abc"
