"""Frames between an http process and a worker: a small JSON header, then raw arrays. No pickle.

    length of the header, 4 bytes big-endian │ header │ frame │ frame │ …

The header's ``frames`` holds their lengths. Kinds of message: the http process sends ``job`` and
``cancel``; the worker sends ``catalogue``, ``alone`` (which of this connection's jobs has all of
the device now, if any), ``progress`` of slow jobs, and for each job it was not told to cancel
exactly one ``result`` or ``error``.
"""

import asyncio
import socket
import struct
from collections.abc import Sequence
from itertools import accumulate, pairwise
from typing import Any

import numpy as np
import orjson
from numpy.typing import NDArray

from app.errors import CamserveError, error_from_line
from app.types import ClassMap, Job, JobResult, Progress

Header = dict[str, Any]
Frame = bytes | memoryview  # to be sent
Data = bytes | bytearray  # of a frame that was received
Message = tuple[Header, Sequence[Data]]

_LENGTH = struct.Struct("!I")
_ROOM = 2**19  # bytes that are read at once; more where a message is larger
_WAITING = 2**22  # bytes that may wait in a socket, where the system allows so many


def widen(stream: socket.socket) -> None:
    """Let several pictures wait in a socket, so that who sends them need not come back for each."""
    stream.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, _WAITING)


def pack(header: Header, frames: Sequence[Frame] = ()) -> list[Frame]:
    """The buffers of one message, to be written in order."""
    text = orjson.dumps({**header, "frames": [len(frame) for frame in frames]})
    return [_LENGTH.pack(len(text)) + text, *frames]


async def receive(reader: asyncio.StreamReader) -> Message:
    """Read one message; ``asyncio.IncompleteReadError`` at the end of the stream."""
    (length,) = _LENGTH.unpack(await reader.readexactly(_LENGTH.size))
    header = orjson.loads(await reader.readexactly(length))
    return header, [await reader.readexactly(size) for size in header["frames"]]


class Inbox:
    """The messages of a stream that is read as it comes, a piece of it at a time."""

    def __init__(self) -> None:
        self._room = memoryview(bytearray(_ROOM))
        self._filled = 0

    def read(self, stream: socket.socket) -> list[Message]:
        """Read once, and give the messages that are whole now; their frames are writable.

        Raises:
            EOFError: nothing more will come.
        """
        if self._filled == len(self._room):
            self._room = memoryview(bytearray(self._room) + bytearray(len(self._room)))
        size = stream.recv_into(self._room[self._filled :])
        if not size:
            raise EOFError
        self._filled += size
        messages, end = [], 0
        while whole := self._message(end):
            message, end = whole
            messages.append(message)
        if end:
            self._filled -= end
            self._room[: self._filled] = self._room[end : end + self._filled]
        return messages

    def _message(self, at: int) -> tuple[Message, int] | None:
        """The one that begins there, and its end; None: its end has not come."""
        come = self._room[at : self._filled]
        if len(come) < _LENGTH.size:
            return None
        (length,) = _LENGTH.unpack_from(come)
        end = _LENGTH.size + length
        if len(come) < end:
            return None
        header = orjson.loads(come[_LENGTH.size : end])
        bounds = list(accumulate(header["frames"], initial=end))
        if len(come) < bounds[-1]:
            return None
        frames = [bytearray(come[start:stop]) for start, stop in pairwise(bounds)]
        return (header, frames), at + bounds[-1]


def pack_job(job_id: int, job: Job) -> list[Frame]:
    header = {
        "kind": "job",
        "id": job_id,
        "model": job.model,
        "version": job.version,
        "deadline": job.deadline,
        "classes": job.classes,
        "methods": job.methods,
        "layers": job.layers,
        "against": job.against,
        "needs": job.needs,
        "slow": job.slow,
        "seed": job.seed,
        "budget": job.budget,
        "alone": job.alone,
        "shape": job.pixels.shape,
    }
    return pack(header, [_raw(job.pixels)])


def unpack_job(header: Header, frames: Sequence[Data]) -> Job:
    pixels = np.frombuffer(frames[0], np.uint8).reshape(header["shape"])
    return Job(
        model=header["model"],
        version=header["version"],
        pixels=pixels,
        deadline=header["deadline"],
        classes=tuple(header["classes"]),
        methods=tuple(header["methods"]),
        layers=tuple(header["layers"]),
        against=tuple(header["against"]),
        needs=tuple(header["needs"]),
        slow=header["slow"],
        seed=header["seed"],
        budget=header["budget"],
        alone=header["alone"],
    )


def pack_result(job_id: int, result: JobResult) -> list[Frame]:
    header = {
        "kind": "result",
        "id": job_id,
        "maps": [
            (m.index, m.method, m.layer, m.values.shape, m.flags, m.residual) for m in result.maps
        ],
        "timings": result.timings,
    }
    arrays = (result.logits, result.scores, *(m.values for m in result.maps))
    return pack(header, [_raw(array) for array in arrays])


def unpack_result(header: Header, frames: Sequence[Data]) -> JobResult:
    logits, scores, *maps = (np.frombuffer(frame, np.float32) for frame in frames)
    return JobResult(
        logits=logits,
        scores=scores,
        maps=tuple(
            ClassMap(
                index=index,
                method=method,
                layer=layer,
                values=values.reshape(shape),
                flags=tuple(flags),
                residual=residual,
            )
            for (index, method, layer, shape, flags, residual), values in zip(
                header["maps"], maps, strict=True
            )
        ),
        timings=header["timings"],
    )


def pack_progress(job_id: int, progress: Progress) -> list[Frame]:
    return pack({"kind": "progress", "id": job_id, "done": progress.done, "total": progress.total})


def pack_alone(job_id: int | None) -> list[Frame]:
    return pack({"kind": "alone", "id": job_id})


def pack_error(job_id: int, error: CamserveError) -> list[Frame]:
    return pack({"kind": "error", "id": job_id, "error": error.as_line()})


def unpack_error(header: Header) -> CamserveError:
    return error_from_line(header["error"])


def _raw(array: NDArray[Any]) -> memoryview:
    return np.ascontiguousarray(array).data.cast("B")
