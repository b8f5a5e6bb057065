"""Frames between an http process and a worker: a small JSON header, then raw arrays. No pickle.

    length of the header, 4 bytes big-endian │ header │ frame │ frame │ …

The header's ``frames`` holds their lengths. Kinds of message: the http process sends ``job`` and
``cancel``; the worker sends ``catalogue``, ``begin`` (which jobs the device has now),
``progress`` of slow jobs, and for each job it was not told to cancel exactly one ``result`` or
``error``.
"""

import asyncio
import struct
from collections.abc import Sequence
from typing import IO, Any

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


def pack(header: Header, frames: Sequence[Frame] = ()) -> list[Frame]:
    """The buffers of one message, to be written in order."""
    text = orjson.dumps({**header, "frames": [len(frame) for frame in frames]})
    return [_LENGTH.pack(len(text)) + text, *frames]


async def receive(reader: asyncio.StreamReader) -> Message:
    """Read one message; ``asyncio.IncompleteReadError`` at the end of the stream."""
    (length,) = _LENGTH.unpack(await reader.readexactly(_LENGTH.size))
    header = orjson.loads(await reader.readexactly(length))
    return header, [await reader.readexactly(size) for size in header["frames"]]


def receive_blocking(file: IO[bytes]) -> Message:
    """Read one message from a buffered stream; ``EOFError`` at its end."""
    (length,) = _LENGTH.unpack(_exactly(file, _LENGTH.size))
    header = orjson.loads(_exactly(file, length))
    return header, [_exactly(file, size) for size in header["frames"]]


def _exactly(file: IO[bytes], size: int) -> bytearray:
    """Writable, as torch wants what it takes pixels from."""
    data = bytearray(size)
    if file.readinto(data) < size:  # type: ignore[attr-defined] # every binary file has it
        raise EOFError
    return data


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


def pack_error(job_id: int, error: CamserveError) -> list[Frame]:
    return pack({"kind": "error", "id": job_id, "error": error.as_line()})


def unpack_error(header: Header) -> CamserveError:
    return error_from_line(header["error"])


def _raw(array: NDArray[Any]) -> memoryview:
    return np.ascontiguousarray(array).data.cast("B")
