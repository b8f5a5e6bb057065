"""Every picture that a stranger may send comes out upright and RGB, or is refused by name."""

import random
import struct
from io import BytesIO

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageCms, ImageOps
from PIL.PngImagePlugin import PngInfo

from app.errors import (
    BadImageShape,
    CorruptImage,
    EmptyImage,
    InvalidImage,
    TooManyPixels,
    TruncatedImage,
    UnsupportedImage,
)
from app.imaging import whole
from app.imaging.decode import FORMATS, decode
from tests.unit.imaging.pictures import chunk, exif, levels, noise, photo, png, read, saved

# As decode.py sets for its process; pytest turns all warnings into errors again.
pytestmark = pytest.mark.filterwarnings(r"ignore:::PIL\.")

PICTURE = photo(60, 40)
FILES = {name: saved(PICTURE, name) for name in FORMATS}
FILES["progressive JPEG"] = saved(PICTURE, "JPEG", progressive=True)
FILES["interlaced GIF"] = saved(PICTURE, "GIF", interlace=True)
FILES["lossy WEBP"] = saved(PICTURE, "WEBP", lossless=False)
FRAMES = [noise(30, 20, seed) for seed in range(3)]
ANIMATED = {
    name: saved(FRAMES[0], name, save_all=True, append_images=FRAMES[1:])
    for name in ("GIF", "WEBP", "PNG")
}


@pytest.mark.parametrize("name", FORMATS)
def test_each_format_is_decoded(name: str) -> None:
    decoded = read(FILES[name])
    assert (decoded.format, decoded.width, decoded.height) == (name, 60, 40)
    assert (decoded.image.mode, decoded.image.size) == ("RGB", (60, 40))
    tolerance = {"JPEG": 20, "GIF": 12}.get(name, 0)  # mean: the others are lossless
    assert np.abs(levels(decoded.image) - levels(PICTURE)).mean() <= tolerance


@pytest.mark.parametrize("name", ANIMATED)
def test_of_an_animation_the_first_frame_counts(name: str) -> None:
    first = saved(FRAMES[0], name)
    assert np.array_equal(levels(read(ANIMATED[name]).image), levels(read(first).image))


def test_several_jpegs_in_one_file_are_a_jpeg() -> None:
    data = saved(FRAMES[0], "MPO", save_all=True, append_images=FRAMES[1:])
    decoded = read(data)
    assert decoded.format == "JPEG"
    assert np.array_equal(levels(decoded.image), levels(read(saved(FRAMES[0], "JPEG")).image))


def test_what_follows_a_jpeg_does_not_matter() -> None:
    film = bytes(random.Random(0).randbytes(200_000)) + b"\xff\xda" * 1000
    assert read(FILES["JPEG"] + film).format == "JPEG"


def test_nothing_is_empty() -> None:
    with pytest.raises(EmptyImage):
        read(b"")


@pytest.mark.parametrize(
    "data",
    [b"hello", b"PK\x03\x04" + bytes(40), b"%PDF-1.7\n", b"<svg xmlns='x'/>", b"II*\0" + bytes(40),
     b"RIFF\x04\0\0\0WAVE", b"\x89PNG", b"\xff\xd8", b"\0", b"GIF88a" + bytes(9)],
)  # fmt: skip
def test_other_files_are_refused_naming_what_is_accepted(data: bytes) -> None:
    with pytest.raises(UnsupportedImage, match="JPEG, PNG, WEBP, GIF, BMP") as caught:
        read(data)
    assert caught.value.extra == {"accepted": list(FORMATS)}
    assert "looks like" not in caught.value.detail


@pytest.mark.parametrize(("brand", "name"), [(b"heic", "HEIC"), (b"mif1", "HEIF"), (b"avif", "AV")])
def test_iphone_pictures_are_refused_with_a_hint(brand: bytes, name: str) -> None:
    with pytest.raises(UnsupportedImage, match=f"looks like {name}.*JPEG"):
        read(b"\0\0\0\x18ftyp" + brand + bytes(40))


@pytest.mark.parametrize("percent", [1, 5, 10, 25, 50, 75, 90, 95, 99])
@pytest.mark.parametrize("name", FILES)
def test_a_file_that_was_cut_off_is_refused(name: str, percent: int) -> None:
    data = FILES[name]
    with pytest.raises((TruncatedImage, CorruptImage, UnsupportedImage)) as caught:
        read(data[: len(data) * percent // 100])
    if percent >= 50:
        assert isinstance(caught.value, TruncatedImage)


@pytest.mark.parametrize("name", FILES)
def test_a_file_without_its_last_byte_is_refused(name: str) -> None:
    with pytest.raises(TruncatedImage):
        read(FILES[name][:-1])


@pytest.mark.parametrize("name", ["JPEG", "PNG", "WEBP", "GIF"])
def test_a_missing_end_is_noticed_before_anything_is_decoded(name: str) -> None:
    whole.check_whole(FILES[name], name)
    with pytest.raises(TruncatedImage):
        whole.check_whole(FILES[name][:-1], name)


@pytest.mark.parametrize("name", ANIMATED)
def test_an_animation_cut_behind_its_first_frame_is_refused(name: str) -> None:
    with pytest.raises(TruncatedImage):
        read(ANIMATED[name][: len(ANIMATED[name]) * 9 // 10])


def test_the_end_of_the_thumbnail_is_not_the_end_of_the_jpeg() -> None:
    data = FILES["JPEG"]
    thumbnail = saved(noise(16, 16), "JPEG")
    app = b"\xff\xe1" + struct.pack(">H", len(thumbnail) + 2) + thumbnail
    whole_file = data[:2] + b"\xff" + app + data[2:]  # and a fill byte before the marker
    assert np.array_equal(levels(read(whole_file).image), levels(read(data).image))
    with pytest.raises(TruncatedImage):
        read(whole_file[:-2])


def test_bytes_that_no_reader_knows_between_the_blocks_of_a_gif_are_skipped() -> None:
    data = FILES["GIF"]
    assert read(data[:-1] + b"\0\0;").format == "GIF"


def test_a_flipped_bit_in_a_png_is_found() -> None:
    data = bytearray(FILES["PNG"])
    data[len(data) // 2] ^= 1
    with pytest.raises(CorruptImage, match="checksum"):
        read(bytes(data))


def test_damaged_pixels_with_a_right_checksum_are_found() -> None:
    data = b"\x89PNG\r\n\x1a\n" + b"".join([
        chunk(b"IHDR", struct.pack(">IIBBBBB", 9, 9, 8, 2, 0, 0, 0)),
        chunk(b"IDAT", b"\x78\x9cgarbage"),
        chunk(b"IEND", b""),
    ])  # fmt: skip
    with pytest.raises(CorruptImage, match="damaged"):
        read(data)


def test_a_header_that_makes_no_sense_is_found() -> None:
    with pytest.raises(CorruptImage, match="BMP header"):
        read(b"BM" + b"\xff" * 60)


def test_a_jpeg_with_endless_scans_is_refused() -> None:
    data = FILES["progressive JPEG"]
    last = data[data.rfind(b"\xff\xda") : -2]
    assert read(data[:-2] + last * 10 + b"\xff\xd9").width == 60
    with pytest.raises(CorruptImage, match="scans"):
        read(data[:-2] + last * whole.MAX_SCANS + b"\xff\xd9")


@pytest.mark.parametrize("code", [0x01, 0x02, 0xBF])
def test_scans_do_not_hide_behind_a_marker_without_a_length(code: int) -> None:
    data = FILES["progressive JPEG"]
    last = data[data.rfind(b"\xff\xda") : -2]
    with pytest.raises(CorruptImage, match="scans"):
        read(data[:-2] + bytes([0xFF, code]) + last * whole.MAX_SCANS + b"\xff\xd9")


def test_run_length_encoded_bmp_is_refused() -> None:
    head = struct.pack("<IiiHHIIiiII", 40, 4, 1, 1, 8, 1, 4, 0, 0, 2, 0) + bytes(8)
    pixels = b"\x04\x01\x00\x01"
    data = b"BM" + struct.pack("<IHHI", 14 + len(head) + len(pixels), 0, 0, 14 + len(head))
    with pytest.raises(UnsupportedImage, match="Run-length"):
        read(data + head + pixels)


def header(width: int, height: int) -> bytes:
    """A PNG that announces a size, with pixels that fill none of it."""
    return png((width, height), 8, 2, b"\0" * 50)


@pytest.mark.parametrize("size", [(65535, 65535), (20_000, 20_000), (10_000, 10_000), (1001, 1000)])
def test_a_header_bomb_is_refused_undecoded(
    size: tuple[int, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Image.Image, "load", lambda self: pytest.fail("decoded"))
    with pytest.raises(TooManyPixels) as caught:
        read(header(*size), max_pixels=1_000_000)
    assert caught.value.extra == {"limits": {"max_pixels": 1_000_000}}


def test_a_webp_bomb_is_refused_undecoded() -> None:
    image = saved(noise(16, 16), "WEBP", lossless=False)[12:]
    frame = bytes(6) + (15).to_bytes(3, "little") * 2 + bytes(4) + image
    canvas = bytes([2, 0, 0, 0]) + (12_999).to_bytes(3, "little") * 2
    chunks = [(b"VP8X", canvas), (b"ANIM", bytes(6)), (b"ANMF", frame)]
    body = b"WEBP" + b"".join(k + struct.pack("<I", len(b)) + b for k, b in chunks)
    with pytest.raises(TooManyPixels, match="13000x13000"):
        read(b"RIFF" + struct.pack("<I", len(body)) + body)


def test_the_pixel_limit_itself_is_allowed() -> None:
    assert read(FILES["PNG"], max_pixels=60 * 40).width == 60
    with pytest.raises(TooManyPixels, match="60x40 is 2400 pixels; the limit is 2399"):
        read(FILES["PNG"], max_pixels=60 * 40 - 1)


@pytest.mark.parametrize("size", [(51, 1), (1, 51), (102, 2), (32_769, 1000)])
def test_impossible_shapes_are_refused(size: tuple[int, int]) -> None:
    with pytest.raises(BadImageShape, match=f"{size[0]}x{size[1]}"):
        read(header(*size), max_pixels=10**9)


@pytest.mark.parametrize("size", [(0, 5), (5, 0)])
def test_a_picture_without_pixels_is_refused(size: tuple[int, int]) -> None:
    with pytest.raises(InvalidImage):
        read(header(*size))


@pytest.mark.parametrize("size", [(1, 1), (50, 1), (1, 50)])
@pytest.mark.parametrize("name", FORMATS)
def test_tiny_and_long_pictures_are_decoded(name: str, size: tuple[int, int]) -> None:
    assert read(saved(noise(*size), name)).image.size == size


def opened_by_pillow(data: bytes) -> Image.Image:
    return ImageOps.exif_transpose(Image.open(BytesIO(data)))


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("name", ["JPEG", "PNG", "WEBP"])
def test_the_picture_is_upright_whatever_the_camera_noted(name: str, orientation: int) -> None:
    data = saved(PICTURE, name, exif=exif(orientation))
    decoded = read(data)
    upright = opened_by_pillow(data)
    assert decoded.orientation == orientation
    assert (decoded.width, decoded.height) == upright.size == decoded.image.size
    assert np.array_equal(levels(decoded.image), levels(upright))
    assert (decoded.width > decoded.height) == (orientation < 5)


def test_exif_behind_the_pixels_of_a_png_counts() -> None:
    data = saved(PICTURE, "PNG")
    end = chunk(b"IEND", b"")
    tags = chunk(b"eXIf", exif(6).removeprefix(b"Exif\0\0"))
    assert read(data.removesuffix(end) + tags + end).orientation == 6


@pytest.mark.parametrize(
    "tags", [b"", b"nonsense", b"MM\0*\xff\xff\xff\xff", b"II*\0\x08\0\0\0\xff"]
)
@pytest.mark.parametrize("name", ["JPEG", "PNG", "WEBP"])
def test_broken_exif_is_ignored(name: str, tags: bytes) -> None:
    decoded = read(saved(PICTURE, name, exif=b"Exif\0\0" + tags))
    assert (decoded.orientation, decoded.width) == (1, 60)


@pytest.mark.parametrize("value", [0, 9, 65535])
def test_an_orientation_that_does_not_exist_is_ignored(value: int) -> None:
    assert read(saved(PICTURE, "JPEG", exif=exif(value))).orientation == 1


@pytest.mark.parametrize(
    ("kind", "count", "value"),
    [(2, 2, b"6\0\0\0"), (11, 1, struct.pack("<f", 6)), (7, 1, b"\6\0\0\0")],
    ids=["text", "float", "bytes"],
)
def test_an_orientation_that_is_no_number_is_ignored(kind: int, count: int, value: bytes) -> None:
    tags = b"II*\0\x08\0\0\0\x01\0" + struct.pack("<HHI", 0x0112, kind, count) + value + bytes(4)
    decoded = read(saved(PICTURE, "JPEG", exif=b"Exif\0\0" + tags))
    assert (decoded.orientation, type(decoded.orientation)) == (1, int)


def test_exif_that_cannot_be_read_at_all_is_ignored(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(self: Image.Image) -> None:
        raise struct.error("unpack requires a buffer")

    monkeypatch.setattr(Image.Image, "getexif", broken)
    assert read(FILES["JPEG"]).orientation == 1


@pytest.mark.parametrize("name", ["JPEG", "PNG", "WEBP"])
def test_an_orientation_in_xmp_is_ignored_as_browsers_do(name: str) -> None:
    tags = b'<rdf:Description tiff:Orientation="6"/>'
    text = PngInfo()
    text.add_itxt("XML:com.adobe.xmp", tags.decode())
    data = saved(PICTURE, name, **({"pnginfo": text} if name == "PNG" else {"xmp": tags}))
    with Image.open(BytesIO(data)) as image:
        assert image.getexif()[0x0112] == 6  # Pillow alone would turn it
    assert read(data).orientation == 1


@pytest.mark.parametrize("name", ["JPEG", "PNG", "WEBP"])
@pytest.mark.parametrize("orientation", [1, 6])
def test_nothing_but_the_orientation_is_kept_of_the_metadata(name: str, orientation: int) -> None:
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    more = {"comment": b"at home"} if name == "JPEG" else {}
    data = saved(PICTURE, name, exif=exif(orientation), icc_profile=profile, **more)
    assert profile in data or name == "PNG"  # where it is compressed
    assert read(data).image.info == {}


# Modes


def shows(data: bytes, expected: object, tolerance: int = 0) -> None:
    """The pixels of the only row."""
    assert np.abs(levels(read(data).image)[0] - np.asarray(expected)).max() <= tolerance


def grey(*values: int) -> list[list[int]]:
    return [[value] * 3 for value in values]


@pytest.mark.parametrize("adobe_ycck", [False, True])
def test_cmyk_jpeg_becomes_rgb(adobe_ycck: bool) -> None:
    ink = Image.new("CMYK", (16, 16), (0, 255, 255, 0))
    data = saved(ink, "JPEG", quality=95)
    assert b"Adobe" in data
    if adobe_ycck:  # the same numbers read as YCCK: what is red in CMYK is not red in YCCK
        place = data.index(b"Adobe") + 11
        data = data[:place] + b"\x02" + data[place + 1 :]
    reference = opened_by_pillow(data).convert("RGB")
    decoded = read(data)
    assert decoded.image.mode == "RGB"
    assert np.array_equal(levels(decoded.image), levels(reference))
    red = np.abs(levels(decoded.image) - [255, 0, 0]).max() < 8
    assert red != adobe_ycck


def test_16_bit_grey_is_scaled_not_clipped() -> None:
    values = (0, 128, 129, 257, 0x1234, 0x8000, 0xFFFE, 0xFFFF)
    data = png((8, 1), 16, 0, b"\0" + struct.pack(">8H", *values))
    shows(data, grey(*(round(value / 257) for value in values)))


def test_16_bit_grey_with_a_transparent_level() -> None:
    data = png((2, 1), 16, 0, b"\0\x12\x34\x80\x80", (b"tRNS", b"\x12\x34"))
    shows(data, grey(255, 128))


def test_16_bit_rgb_is_scaled() -> None:
    row = b"\0" + struct.pack(">6H", 0, 0x8080, 0xFFFF, 0x4040, 257, 0xC0C0)
    shows(png((2, 1), 16, 2, row), [[0, 128, 255], [64, 1, 192]], tolerance=1)


def test_black_and_white() -> None:
    shows(png((3, 1), 1, 0, b"\0\xa0"), grey(255, 0, 255))


def test_grey() -> None:
    shows(png((3, 1), 8, 0, b"\0\x00\x7f\xff"), grey(0, 127, 255))


def test_grey_with_alpha_lies_on_white() -> None:
    shows(png((3, 1), 8, 4, b"\0\x00\x00\x00\x80\x00\xff"), grey(255, 127, 0))


def test_grey_with_a_transparent_level_lies_on_white() -> None:
    shows(png((2, 1), 8, 0, b"\0\x10\x20", (b"tRNS", b"\0\x10")), grey(255, 0x20))


PALETTE = (b"PLTE", bytes([10, 20, 30, 40, 50, 60, 70, 80, 90]))


def test_palette() -> None:
    shows(png((3, 1), 8, 3, b"\0\x02\x00\x01", PALETTE), [[70, 80, 90], [10, 20, 30], [40, 50, 60]])


def test_palette_with_an_alpha_for_each_colour_lies_on_white() -> None:
    data = png((3, 1), 8, 3, b"\0\x00\x01\x02", PALETTE, (b"tRNS", bytes([0, 128])))
    shows(data, [[255, 255, 255], [147, 152, 157], [70, 80, 90]], tolerance=1)


def test_palette_with_one_transparent_colour_lies_on_white() -> None:
    shows(png((2, 1), 8, 3, b"\0\x00\x01", PALETTE, (b"tRNS", bytes([0]))),
          [[255, 255, 255], [40, 50, 60]])  # fmt: skip
    image = Image.new("P", (2, 1), 1)
    image.putpalette(PALETTE[1])
    image.putpixel((0, 0), 0)
    shows(saved(image, "GIF", transparency=0), [[255, 255, 255], [40, 50, 60]])


@pytest.mark.parametrize("name", ["PNG", "WEBP"])
def test_alpha_lies_on_white(name: str) -> None:
    image = Image.new("RGBA", (3, 1))
    for x, alpha in enumerate((0, 100, 255)):
        image.putpixel((x, 0), (200, 100, 0, alpha))
    blended = [255 + (c - 255) * 100 / 255 for c in (200, 100, 0)]
    shows(saved(image, name), [[255] * 3, blended, [200, 100, 0]], tolerance=1)


def test_a_transparency_table_longer_than_any_palette_is_refused() -> None:
    data = png((2, 1), 8, 3, b"\0\x00\x01", PALETTE, (b"tRNS", bytes(300)))
    with pytest.raises(CorruptImage):
        read(data)


def test_a_palette_picture_without_a_palette_is_refused() -> None:
    with pytest.raises(CorruptImage):
        read(png((2, 1), 8, 3, b"\0\x00\x01"))


# Whatever comes


def survives(data: bytes) -> None:
    try:
        decoded = decode(data, max_pixels=100_000, needed=lambda width, height: (20, 20))
    except (InvalidImage, UnsupportedImage):
        return
    assert decoded.image.mode == "RGB"
    assert decoded.orientation in range(1, 9)


MAGIC = [b"", b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n", b"RIFF\0\0\0\0WEBP", b"GIF89a", b"BM"]


@given(st.sampled_from(MAGIC), st.binary(max_size=300))
@settings(deadline=None, max_examples=150)
def test_arbitrary_bytes_raise_nothing_but_our_errors(magic: bytes, data: bytes) -> None:
    survives(magic + data)


SEEDS = [*FILES.values(), *ANIMATED.values(),
         saved(PICTURE.convert("RGBA"), "PNG", exif=exif(5)),
         saved(PICTURE, "JPEG", exif=exif(7)),
         saved(PICTURE.convert("L"), "GIF", transparency=3),
         saved(PICTURE.convert("CMYK"), "JPEG")]  # fmt: skip


@given(st.sampled_from(SEEDS), st.randoms(use_true_random=False))
@settings(deadline=None, max_examples=400)
def test_mutated_files_raise_nothing_but_our_errors(seed: bytes, rng: random.Random) -> None:
    data = bytearray(seed)
    for _ in range(rng.randint(1, 4)):
        where = rng.randrange(rng.choice((min(64, len(data)), len(data))))
        until = where + rng.randint(0, 9)
        data[where:until] = rng.randbytes(rng.randint(0, 9))
    survives(bytes(data))


@given(st.data())
@settings(deadline=None, max_examples=100)
def test_png_chunks_with_right_checksums_and_wrong_contents_are_survived(
    source: st.DataObject,
) -> None:
    kinds = st.sampled_from(
        [b"PLTE", b"tRNS", b"eXIf", b"iCCP", b"acTL", b"fcTL", b"gAMA", b"tEXt"]
    )
    more = source.draw(st.lists(st.tuples(kinds, st.binary(max_size=40)), max_size=4))
    color = source.draw(st.sampled_from([0, 2, 3, 4, 6]))
    depth = source.draw(st.sampled_from([1, 2, 4, 8, 16]))
    survives(png((3, 2), depth, color, bytes(60), *more))


@pytest.mark.parametrize(
    "data",
    [
        b"GIF89a" + bytes(7) + b"!\xfe\0" * 300_000,
        b"GIF89a" + bytes(7) + b",\0\0\0\0\0\0\0\0\0\x08" + b"\1\0" * 300_000,
        b"\x89PNG\r\n\x1a\n" + chunk(b"teSt", b"") * 300_000,
        b"\xff\xd8" + b"\xff\xe0\0\2" * 300_000,
    ],
    ids=["GIF of extensions", "GIF of blocks", "PNG", "JPEG"],
)
def test_a_file_of_nothing_but_empty_parts_is_refused(data: bytes) -> None:
    with pytest.raises(CorruptImage, match="parts"):
        read(data)


def test_what_a_gif_holds_between_its_parts_is_passed_over_at_once() -> None:
    with pytest.raises(TruncatedImage):
        read(b"GIF89a" + bytes(7) + b"\1" * 20_000_000)
