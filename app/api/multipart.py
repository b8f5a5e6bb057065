"""Multipart bodies, whole in memory and bounded already: every part, or a clear error."""

from typing import TYPE_CHECKING

from python_multipart.exceptions import MultipartParseError
from python_multipart.multipart import MultipartParser, parse_options_header

from app.errors import BadRequest, MalformedMultipart

if TYPE_CHECKING:
    from python_multipart.multipart import MultipartCallbacks

_MAX_PARTS = 64
_MAX_BOUNDARY = 256


def parse_multipart(content_type: str, body: bytes) -> list[tuple[str, bytes]]:
    """The parts as ``(name, content)``, in order; file names do not count.

    Raises:
        MalformedMultipart: no boundary, broken, cut short, or a part without a name.
        BadRequest: too many parts.
    """
    _, parameters = parse_options_header(content_type)
    boundary = parameters.get(b"boundary")
    if not boundary or len(boundary) > _MAX_BOUNDARY:
        raise MalformedMultipart("The content type has no usable boundary.")
    collector = _Collector()
    parser = MultipartParser(boundary, collector.callbacks())
    try:
        parser.write(body)
        parser.finalize()
    except MultipartParseError as exc:
        raise MalformedMultipart("The multipart body is broken.") from exc
    if not collector.ended:
        raise MalformedMultipart("The multipart body ends before its last boundary.")
    return collector.parts


class _Collector:
    """Collects what the parser finds. Content is sliced once, not copied chunk by chunk."""

    def __init__(self) -> None:
        self.parts: list[tuple[str, bytes]] = []
        self.ended = False
        self._header = b""
        self._value = b""
        self._name: str | None = None
        self._chunks: list[bytes] = []

    def callbacks(self) -> "MultipartCallbacks":
        return {
            "on_part_begin": self._begin,
            "on_header_field": self._header_field,
            "on_header_value": self._header_value,
            "on_header_end": self._header_end,
            "on_part_data": self._data,
            "on_part_end": self._end,
            "on_end": self._finish,
        }

    def _begin(self) -> None:
        if len(self.parts) >= _MAX_PARTS:
            raise BadRequest(f"The form has over {_MAX_PARTS} parts.")
        self._name, self._chunks = None, []

    def _header_field(self, data: bytes, start: int, end: int) -> None:
        self._header += data[start:end]

    def _header_value(self, data: bytes, start: int, end: int) -> None:
        self._value += data[start:end]

    def _header_end(self) -> None:
        if self._header.lower() == b"content-disposition":
            name = parse_options_header(self._value)[1].get(b"name")
            self._name = None if name is None else name.decode("utf-8", "replace")
        self._header = self._value = b""

    def _data(self, data: bytes, start: int, end: int) -> None:
        self._chunks.append(data[start:end])

    def _end(self) -> None:
        if self._name is None:
            raise MalformedMultipart("A part of the form has no name.")
        self.parts.append((self._name, b"".join(self._chunks)))

    def _finish(self) -> None:
        self.ended = True
