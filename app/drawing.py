"""From a raw map to what a caller gets: evidence, pictures, hot spots, a region's share of it."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from app.imaging import geometry, region, render
from app.imaging.hot import hot_spots
from app.imaging.normalize import Range, extent, grad_cam_scale, normalize
from app.options import ExplainOptions
from app.types import (
    ClassMap,
    Explanation,
    HotSpot,
    ImageInfo,
    Map,
    MethodInfo,
    Picture,
    Pixels,
    RegionReport,
)

SATURATED_SCORE = "saturated_score"

_SATURATED = 0.9999  # softmax: above it, scores no longer tell two pictures apart
_GRID_SIDE = 56  # a finer grid would be many kilobytes of text


@dataclass(frozen=True, slots=True, kw_only=True)
class Canvas:
    """What all maps of one answer are drawn on: ``shown``, where overlays are asked for.

    ``cover`` is the region that was asked about; ``ranges`` are those of the methods whose maps
    share a scale.
    """

    shown: Pixels | None
    info: ImageInfo
    options: ExplainOptions
    labels: tuple[str, ...]
    scores: NDArray[np.float32]
    methods: Mapping[str, MethodInfo]
    cover: Map | None = None
    ranges: Mapping[str, Range] = field(default_factory=dict)

    @property
    def upload(self) -> geometry.Size:
        """The upright upload's width and height."""
        return self.info.width, self.info.height

    def draw(self, found: ClassMap) -> Explanation:
        """One map."""
        wanted = self.options.output
        evidence, flags = normalize(
            found.values,
            relu=self.methods[found.method].relu,
            within=self.ranges.get(found.method),
        )
        heatmap, overlay = self._pictures(found.values, evidence)
        saturated = (SATURATED_SCORE,) if self.scores[found.index] > _SATURATED else ()
        return Explanation(
            index=found.index,
            label=self.labels[found.index],
            method=found.method,
            layer=found.layer,
            raw=found.values,
            grid=geometry.shrink(found.values, _GRID_SIDE),
            with_raw="raw" in wanted,
            flags=(*flags, *found.flags, *saturated),
            residual=found.residual,
            heatmap=heatmap,
            overlay=overlay,
            spots=self._spots(evidence) if "boxes" in wanted else None,
            with_region=self.cover is not None,
            region=None if self.cover is None else self._region(found, self.cover),
        )

    def _pictures(self, raw: Map, evidence: Map) -> tuple[Picture | None, Picture | None]:
        """Heatmap and overlay, those that are wanted."""
        options = self.options
        if not options.pictures:
            return None, None
        levels = render.quantize(self._scaled(raw, evidence))
        style = render.Style(options.colormap, options.alpha, options.format)
        return (
            render.heatmap(levels, style) if "heatmap" in options.output else None,
            None if self.shown is None else render.overlay(levels, self.shown, style),
        )

    def _scaled(self, raw: Map, evidence: Map) -> Map:
        """Evidence on the upload, at the pictures' size, in levels."""
        info, out = self.info, geometry.fit(*self.upload, self.options.size)
        if self.options.normalize == "minmax":
            return geometry.lay(render.scale(evidence), info.crop, self.upload, out)
        # pytorch-grad-cam scales the coarse map, and once more what it was resized to.
        laid = geometry.lay(grad_cam_scale(np.maximum(raw, 0)), info.crop, self.upload, out)
        seen = geometry.lay(np.ones((1, 1), np.float32), info.crop, self.upload, out) > 0
        laid[seen] = render.scale(grad_cam_scale(laid[seen]))
        return laid

    def _spots(self, evidence: Map) -> tuple[HotSpot, ...]:
        return hot_spots(evidence, self.info.crop, self.upload, self.options.threshold)

    def _region(self, found: ClassMap, cover: Map) -> RegionReport | None:
        return region.measure(found.values, self.info.crop, self.upload, cover)


def shared_ranges(maps: Iterable[ClassMap], methods: Mapping[str, MethodInfo]) -> dict[str, Range]:
    """For each method the range of its maps; those of different methods have different units."""
    by_method: dict[str, list[Map]] = {}
    for found in maps:
        by_method.setdefault(found.method, []).append(found.values)
    return {name: extent(raws, relu=methods[name].relu) for name, raws in by_method.items()}
