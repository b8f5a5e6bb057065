"""Is the file whole? Pillow takes some files that were cut off, and PNGs with broken checksums.

Only the structure is walked here, before anything is decoded. What Pillow itself refuses (a BMP
without all of its rows, a baseline JPEG without all of its blocks) is left to it.
"""

import re
from collections.abc import Callable
from zlib import crc32

from app.errors import CorruptImage, TruncatedImage

MAX_SCANS = 64  # a progressive JPEG has about ten; a hostile one thousands, each a full pass

# Those that a length follows, and the end. Codes below C0 have none: decoders read on behind them.
_MARKER = re.compile(rb"\xff[\xc0-\xcf\xd8-\xfe]")


def check_whole(data: bytes, name: str) -> None:
    """Refuse a file of the format ``name`` that ends before its format says so.

    An animated file counts as a whole, although its first frame alone is used.

    Raises:
        TruncatedImage: the end is missing.
        CorruptImage: a checksum is wrong, or decoding would be endless.
    """
    if name in _CHECKS:
        _CHECKS[name](data)


def truncated() -> TruncatedImage:
    return TruncatedImage("The file ends before the picture does. Send it again.")


def _check_jpeg(data: bytes) -> None:
    # From segment to segment, because an embedded thumbnail has an end of its own, and whatever
    # follows the picture (more pictures, a film) is no business of ours.
    scans, place = 0, 2
    while (marker := _MARKER.search(data, place)) and marker[0] != b"\xff\xd9":
        scans += marker[0] == b"\xff\xda"
        place = marker.end() + int.from_bytes(data[marker.end() : marker.end() + 2])
    if marker is None:
        raise truncated()
    if scans > MAX_SCANS:
        raise CorruptImage(f"The JPEG has {scans} scans; {MAX_SCANS} are allowed.")


def _check_png(data: bytes) -> None:
    view, place, kind = memoryview(data), 8, b""
    while kind != b"IEND":
        end = place + 12 + int.from_bytes(data[place : place + 4])
        if end > len(data):
            raise truncated()
        kind = data[place + 4 : place + 8]
        if crc32(view[place + 4 : end - 4]) != int.from_bytes(data[end - 4 : end]):
            raise CorruptImage("A checksum in the PNG is wrong. Send it again.")
        place = end


def _check_gif(data: bytes) -> None:
    place = 13 + _palette_bytes(data[10:11])
    while data[place : place + 1] != b";":
        if place >= len(data):
            raise truncated()
        kind = data[place : place + 1]
        if kind == b",":  # a frame: descriptor, palette, code size, blocks
            place = _behind_blocks(data, place + 11 + _palette_bytes(data[place + 9 : place + 10]))
        elif kind == b"!":
            place = _behind_blocks(data, place + 2)
        else:
            place += 1  # readers skip what they do not know


def _palette_bytes(flags: bytes) -> int:
    return 3 << (flags[0] & 7) + 1 if flags and flags[0] & 128 else 0


def _behind_blocks(data: bytes, place: int) -> int:
    while place < len(data) and data[place]:
        place += 1 + data[place]
    return place + 1


def _check_webp(data: bytes) -> None:
    if len(data) < 8 + int.from_bytes(data[4:8], "little"):
        raise truncated()


_CHECKS: dict[str, Callable[[bytes], None]] = {
    "JPEG": _check_jpeg,
    "PNG": _check_png,
    "GIF": _check_gif,
    "WEBP": _check_webp,
}
