"""An upload becomes the model's input, the picture that maps are drawn on, and a region of it."""

from dataclasses import dataclass

from app.errors import InvalidOption
from app.imaging import geometry, region, render
from app.imaging.decode import Decoded, decode
from app.imaging.preprocess import needed, preprocess
from app.options import ExplainOptions
from app.order import Order, RequestLimits
from app.types import Box, ImageInfo, Map, Pixels, Preprocess


@dataclass(frozen=True, slots=True)
class Reading:
    """An upload that was decoded: what the model sees of it, and what it is.

    ``shown`` is the picture that overlays are drawn on, of their size; None where there are none:
    many readings wait for the device at once, and the pictures are all that is large in them (as
    Pillow's own, with four bytes a pixel, they would be larger).
    ``fill`` is the colour that tells the model nothing; ``cover`` the region that is asked about.
    """

    shown: Pixels | None
    pixels: Pixels
    info: ImageInfo
    fill: tuple[int, int, int]
    cover: Map | None

    @property
    def region_at_input(self) -> Map:
        """[H, W] of the model's input, in [0, 1]."""
        assert self.cover is not None  # noqa: S101 - it was asked for
        height, width = self.pixels.shape[:2]
        upload = self.info.width, self.info.height
        return region.at_input(self.cover, self.info.crop, upload, (width, height))


def read_upload(upload: bytes, mask: bytes | None, order: Order, limits: RequestLimits) -> Reading:
    """Decode an upload, and make the model's input of it.

    Raises:
        CamserveError: the picture or the mask is unusable, or the answer's pictures would be too
            large.
    """
    options, spec = order.options, order.model.preprocess
    assert isinstance(spec, Preprocess)  # noqa: S101 - a ready model has one
    view, side, max_pixels = options.view, options.picture_side, limits.max_pixels
    decoded = decode(upload, max_pixels=max_pixels, needed=lambda w, h: needed(w, h, spec, view))
    pixels, box = preprocess(decoded, spec, view)
    info = ImageInfo(decoded.width, decoded.height, decoded.format, decoded.orientation, box)
    cover = None
    if isinstance(options, ExplainOptions):
        pictures = order.plan.maps * options.pictures
        _check_pictures(info, options, pictures, limits.max_picture_pixels)
        cover = _cover(info, options, mask, max_pixels)
    shown = _shown(upload, decoded, side, max_pixels) if side else None
    red, green, blue = (round(255 * level) for level in spec.mean)
    return Reading(shown, pixels, info, (red, green, blue), cover)


def _shown(upload: bytes, decoded: Decoded, side: int, max_pixels: int) -> Pixels:
    if max(decoded.image.size) < min(side, max(decoded.width, decoded.height)):
        # Too small to be shown. Scores must not depend on what is shown, so it is decoded again.
        decoded = decode(
            upload, max_pixels=max_pixels, needed=lambda w, h: geometry.fit(w, h, side)
        )
    size = geometry.fit(decoded.width, decoded.height, side)
    return render.canvas(decoded.image, size)


def _cover(
    info: ImageInfo, options: ExplainOptions, mask: bytes | None, max_pixels: int
) -> Map | None:
    upload = info.width, info.height
    if mask is not None:
        return region.mask_region(mask, upload, max_pixels)
    return None if options.region is None else region.box_region(Box(*options.region), upload)


def _check_pictures(info: ImageInfo, options: ExplainOptions, pictures: int, limit: int) -> None:
    width, height = geometry.fit(info.width, info.height, options.size)
    if pictures * width * height > limit:
        detail = f"{pictures} pictures of {width}x{height} are over {limit} pixels; ask for less"
        raise InvalidOption.of("size", detail, extra={"limits": {"max_picture_pixels": limit}})
