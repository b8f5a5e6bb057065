"""Answers that are kept for those who ask the same again: off unless the operator gives it room."""

import hashlib
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass

from starlette.responses import Response

from app.api.body import Upload
from app.options import PredictOptions

_OVERHEAD = 1024  # bytes of a response beside its body


class ResponseCache:
    """The responses that were asked for last, whole: their id and timings are the first one's.

    Args:
        max_bytes: for all bodies together; the least recently used go first.
    """

    def __init__(self, max_bytes: int) -> None:
        self._max_bytes = max_bytes
        self._bytes = 0
        self._kept: OrderedDict[str, _Kept] = OrderedDict()

    def get(self, etag: str) -> Response | None:
        """What was answered, anew: a response gets more headers on its way out."""
        kept = self._kept.get(etag)
        if kept is None:
            return None
        self._kept.move_to_end(etag)
        return Response(kept.body, headers=kept.headers)

    def put(self, etag: str, response: Response) -> None:
        """Keep an answer, and let older ones go for it; one that is too large is not kept."""
        self._forget(etag)
        kept = _Kept(bytes(response.body), dict(response.headers))
        if kept.size > self._max_bytes:
            return
        self._kept[etag] = kept
        self._bytes += kept.size
        while self._bytes > self._max_bytes:
            self._forget(next(iter(self._kept)))

    def _forget(self, etag: str) -> None:
        if kept := self._kept.pop(etag, None):
            self._bytes -= kept.size


@dataclass(frozen=True, slots=True)
class _Kept:
    body: bytes
    headers: dict[str, str]

    @property
    def size(self) -> int:
        return len(self.body) + _OVERHEAD


def make_etag(upload: Upload, options: PredictOptions, kind: str, makers: Sequence[str]) -> str:
    """Equal where the answer would be: of the same bytes, options and form, by the same makers.

    Args:
        upload: the picture, and the mask.
        options: of the request; how long it may take is left out.
        kind: what answers: the route and the media type.
        makers: all else that an answer depends on: the model and its version, the programs'
            versions, the server's settings.
    """
    wanted = options.model_dump_json(exclude={"deadline_ms", "model"})
    digest = hashlib.sha256()
    for part in (
        upload.image,
        b"" if upload.mask is None else b"mask" + upload.mask,
        wanted.encode(),
        kind.encode(),
        *(maker.encode() for maker in makers),
    ):
        digest.update(len(part).to_bytes(8, "big"))
        digest.update(part)
    return f'"{digest.hexdigest()}"'
