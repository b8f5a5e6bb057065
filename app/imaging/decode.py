"""Bytes from a stranger become an upright RGB picture, or a clear error.

Checked in this order: magic bytes, whether the file is whole, header (pixels, sides, aspect), then
the pixels themselves. Metadata is read for the orientation alone and never passed on; colours are
taken as sRGB, whatever profile is embedded. Pillow's errors stop here.

A JPEG of at least four times the needed size is decoded at 1/2, 1/4 or 1/8 (1600x1200 in 7 instead
of 16 ms), but never below ``DRAFT_MARGIN`` = 2 times the needed size, so that the model's own
antialiased resize still makes the last step. Below four times, pixels are exact. Above, the 224x224
input differs from that of a full decode, in levels of 255, by

* photo-like pictures: at most 0.5 in the mean, 40 in the worst pixel (on a hard edge),
* pure pixel noise: at most 4 in the mean.

A margin of 1 would save another 2 ms and make the differences two to three times as large.
"""

import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from io import BytesIO

import numpy as np

# Named one by one: for a format that it does not know yet, Pillow would import all of its plugins.
from PIL import (
    BmpImagePlugin,
    GifImagePlugin,
    Image,
    JpegImagePlugin,
    MpoImagePlugin,
    PngImagePlugin,
    WebPImagePlugin,
)

from app.errors import (
    BadImageShape,
    CorruptImage,
    EmptyImage,
    TooManyPixels,
    UnsupportedImage,
)
from app.imaging.whole import check_whole, truncated

FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP")
MAX_SIDE = 32_768
MAX_ASPECT = 50  # resizing the shorter side of a longer strip would make a huge picture
WHITE, BLACK = (255, 255, 255), (0, 0, 0)
DRAFT_MARGIN = 2  # see above

_PLUGINS = (
    BmpImagePlugin, GifImagePlugin, JpegImagePlugin, MpoImagePlugin, PngImagePlugin,
    WebPImagePlugin,
)  # fmt: skip
_ORIENTATION_TAG = 0x0112
_UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
_ON_ITS_SIDE = (5, 6, 7, 8)
_XMP = ("xmp", "XML:com.adobe.xmp")
_BRANDS = {b"heic": "HEIC", b"heix": "HEIC", b"mif1": "HEIF", b"msf1": "HEIF", b"avif": "AVIF"}
_RUN_LENGTHS = (1, 2)  # BMP compressions

# What Pillow warns of (odd metadata, pixels by a limit of its own) is checked here or ignored.
warnings.filterwarnings("ignore", module=r"PIL\.")

Size = tuple[int, int]
Color = tuple[int, int, int]


@dataclass(frozen=True, slots=True)
class Decoded:
    """An upright RGB picture. ``width`` and ``height`` are the upload's, upright.

    ``image`` may be smaller than that (see ``decode``); it carries no metadata.
    """

    image: Image.Image
    width: int
    height: int
    format: str
    orientation: int


def decode(
    data: bytes,
    *,
    max_pixels: int,
    needed: Callable[[int, int], Size],
    background: Color = WHITE,
) -> Decoded:
    """Decode the first frame of a JPEG, PNG, WebP, GIF or BMP.

    Args:
        data: the file.
        max_pixels: width x height above which the file is refused, unread.
        needed: from the upright width and height, the least width and height worth having. A JPEG
            of four times that is decoded at 1/2, 1/4 or 1/8 size, never below twice the needed.
        background: what shows through transparent pixels.

    Raises:
        UnsupportedImage: not one of the formats.
        InvalidImage: one of them, but empty, broken, too large or of an impossible shape.
    """
    name = sniff(data)
    check_whole(data, name)
    image = _open(data, name, max_pixels)
    _check_shape(*image.size, max_pixels=max_pixels)
    if name == "PNG":
        with _damage_translated():
            image.load()  # its EXIF may stand behind the pixels
    orientation = _orientation(image)
    swap = orientation in _ON_ITS_SIDE
    width, height = reversed(image.size) if swap else image.size
    if name == "JPEG":
        across, down = reversed(needed(width, height)) if swap else needed(width, height)
        image.draft(None, (across * DRAFT_MARGIN, down * DRAFT_MARGIN))
    with _damage_translated():
        image.load()
        upright = _to_rgb(image, background)
    if orientation in _UPRIGHT:
        upright = upright.transpose(_UPRIGHT[orientation])
    upright.info.clear()  # Pillow would copy profile and comment into whatever is made from it
    return Decoded(upright, width, height, name, orientation)


def sniff(data: bytes) -> str:
    """The format that the first bytes announce; what the client declared does not count."""
    if not data:
        raise EmptyImage("The image is empty: 0 bytes.")
    head = data[:16]
    if head.startswith(b"\xff\xd8\xff"):
        return "JPEG"
    if head.startswith(b"\x89PNG\r\n\x1a\n"):
        return "PNG"
    if head.startswith(b"RIFF") and head[8:12] == b"WEBP":
        return "WEBP"
    if head.startswith((b"GIF87a", b"GIF89a")):
        return "GIF"
    if head.startswith(b"BM"):
        return "BMP"
    raise UnsupportedImage(
        f"The file is not a picture of an accepted format ({', '.join(FORMATS)}).{_hint(head)}",
        extra={"accepted": list(FORMATS)},
    )


def _hint(head: bytes) -> str:
    brand = _BRANDS.get(head[8:12]) if head[4:8] == b"ftyp" else None
    return f" It looks like {brand}: save it as JPEG first." if brand else ""


def _open(data: bytes, name: str, max_pixels: int) -> Image.Image:
    try:
        image = Image.open(BytesIO(data), formats=(name,))
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as exc:
        raise _too_many("The header announces far too many pixels", max_pixels) from exc
    except Exception as exc:  # whatever a hostile file raises is the file's fault
        raise CorruptImage(f"The {name} header cannot be read.") from exc
    if name == "BMP" and image.info.get("compression") in _RUN_LENGTHS:
        # Pillow expands it in Python: seconds of CPU time for a few kilobytes.
        raise UnsupportedImage("Run-length encoded BMP is not accepted; save it as PNG.")
    return image


def _check_shape(width: int, height: int, *, max_pixels: int) -> None:
    if width * height > max_pixels:
        raise _too_many(f"{width}x{height} is {width * height} pixels", max_pixels)
    short, long = sorted((width, height))
    if short < 1 or long > MAX_SIDE or long > MAX_ASPECT * short:
        raise BadImageShape(
            f"{width}x{height} is not usable: sides from 1 to {MAX_SIDE} pixels,"
            f" at most {MAX_ASPECT} times as long as wide."
        )


def _too_many(what: str, max_pixels: int) -> TooManyPixels:
    return TooManyPixels(
        f"{what}; the limit is {max_pixels}. Send a smaller picture.",
        extra={"limits": {"max_pixels": max_pixels}},
    )


def _orientation(image: Image.Image) -> int:
    for name in _XMP:  # Pillow would look there too; browsers do not
        image.info.pop(name, None)
    try:
        value = image.getexif().get(_ORIENTATION_TAG, 1)
    except Exception:  # noqa: BLE001 - broken metadata do not make a picture unusable
        return 1
    return value if isinstance(value, int) and value in _UPRIGHT else 1  # text, 6.0, 6/1: no


@contextmanager
def _damage_translated() -> Iterator[None]:
    try:
        yield
    except Exception as exc:  # whatever a hostile file raises is the file's fault
        if "truncated" in str(exc).lower():
            raise truncated() from exc
        raise CorruptImage("The picture's data are damaged.") from exc


def _to_rgb(image: Image.Image, background: Color) -> Image.Image:
    if image.mode.startswith("I"):
        image = _to_8_bit(image)
    if image.has_transparency_data:
        rgba = image if image.mode == "RGBA" else image.convert("RGBA")  # which would copy it
        canvas = Image.new("RGB", rgba.size, background)
        canvas.paste(rgba, mask=rgba)
        return canvas
    return image if image.mode == "RGB" else image.convert("RGB")


def _to_8_bit(image: Image.Image) -> Image.Image:
    # Pillow's own conversion clips at 255 instead of scaling.
    levels = np.asarray(image).astype(np.uint32)
    grey = Image.fromarray(((levels + 128) // 257).astype(np.uint8))
    if "transparency" in image.info:
        opaque = levels != image.info["transparency"]
        grey.putalpha(Image.fromarray(opaque.astype(np.uint8) * 255))
    return grey
