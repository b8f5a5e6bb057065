"""Is the file whole? Pillow takes some files that were cut off, and PNGs with broken checksums.

Only the structure is walked here, before anything is decoded. What Pillow itself refuses (a BMP
without all of its rows) is left to it. A JPEG whose blocks end early, but with the marker of its
end, passes: libjpeg paints the rest grey.
"""

import re
from collections.abc import Callable, Iterator
from zlib import crc32

from app.errors import CorruptImage, TruncatedImage

MAX_SCANS = 64  # a progressive JPEG has about ten; a hostile one thousands, each a full pass

# Segments, chunks, blocks. A hostile file is made of empty ones, five million of them in 20 MB, and
# each is a step of ours, and of Pillow's; a whole animation of that size has some 80,000.
MAX_PARTS = 200_000

# Those that a length follows, and the end. Codes below C0 have none: decoders read on behind them.
_MARKER = re.compile(rb"\xff[\xc0-\xcf\xd8-\xfe]")
_GIF_PART = re.compile(rb"[,!;]")


def check_whole(data: bytes, name: str) -> None:
    """Refuse a file of the format ``name`` that ends before its format says so.

    An animated file counts as a whole, although its first frame alone is used.

    Raises:
        TruncatedImage: the end is missing.
        CorruptImage: a checksum is wrong, or decoding would be endless.
    """
    for part, _ in enumerate(_WALKS[name](data) if name in _WALKS else ()):
        if part >= MAX_PARTS:
            raise CorruptImage(f"The {name} has over {MAX_PARTS} parts. Save it anew.")


def truncated() -> TruncatedImage:
    return TruncatedImage("The file ends before the picture does. Send it again.")


def _walk_jpeg(data: bytes) -> Iterator[None]:
    # From segment to segment, because an embedded thumbnail has an end of its own, and whatever
    # follows the picture (more pictures, a film) is no business of ours.
    scans, place = 0, 2
    while (marker := _MARKER.search(data, place)) and marker[0] != b"\xff\xd9":
        yield
        scans += marker[0] == b"\xff\xda"
        place = marker.end() + int.from_bytes(data[marker.end() : marker.end() + 2])
    if marker is None:
        raise truncated()
    if scans > MAX_SCANS:
        raise CorruptImage(f"The JPEG has {scans} scans; {MAX_SCANS} are allowed.")


def _walk_png(data: bytes) -> Iterator[None]:
    view, place, kind = memoryview(data), 8, b""
    while kind != b"IEND":
        end = place + 12 + int.from_bytes(data[place : place + 4])
        if end > len(data):
            raise truncated()
        kind = data[place + 4 : place + 8]
        if crc32(view[place + 4 : end - 4]) != int.from_bytes(data[end - 4 : end]):
            raise CorruptImage("A checksum in the PNG is wrong. Send it again.")
        yield
        place = end


def _walk_gif(data: bytes) -> Iterator[None]:
    place = 13 + _palette_bytes(data[10:11])
    while (found := _GIF_PART.search(data, place)) and found[0] != b";":  # readers skip the rest
        yield
        place = found.end() + 1
        if found[0] == b",":  # a frame: descriptor, palette, code size; then blocks, as behind "!"
            place += 9 + _palette_bytes(data[place + 7 : place + 8])
        while place < len(data) and data[place]:
            yield
            place += 1 + data[place]
        place += 1
    if found is None:
        raise truncated()


def _palette_bytes(flags: bytes) -> int:
    return 3 << (flags[0] & 7) + 1 if flags and flags[0] & 128 else 0


def _walk_webp(data: bytes) -> Iterator[None]:
    yield
    if len(data) < 8 + int.from_bytes(data[4:8], "little"):
        raise truncated()


_WALKS: dict[str, Callable[[bytes], Iterator[None]]] = {
    "JPEG": _walk_jpeg,
    "PNG": _walk_png,
    "GIF": _walk_gif,
    "WEBP": _walk_webp,
}
