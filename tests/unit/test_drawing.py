"""The picture that pytorch-grad-cam makes, from the same raw map."""

import numpy as np
import pytest
from pytorch_grad_cam.utils.image import scale_cam_image

from app.drawing import Canvas, shared_ranges
from app.options import ExplainOptions
from app.types import Box, ClassMap, ImageInfo, Map, MethodInfo

METHOD = MethodInfo(name="gradcam", title="", paper="", cost="")


def canvas(width: int, height: int, crop: Box | None = None, **options: object) -> Canvas:
    return Canvas(
        shown=np.zeros((height, width, 3), np.uint8),
        info=ImageInfo(width, height, "PNG", 1, crop or Box(0, 0, width, height)),
        options=ExplainOptions.model_validate({"size": 8192, **options}),
        labels=("a", "b"),
        scores=np.array([0.99995, 0.00005], np.float32),
        methods={"gradcam": METHOD},
    )


def found(values: Map, index: int = 1) -> ClassMap:
    return ClassMap(index=index, method="gradcam", layer="l", values=values)


def evidence(scaled: Map) -> Map:
    """What ``render.scale`` was given."""
    return (scaled - np.float32(0.5)) / np.float32(255)


def by_grad_cam(raw: Map, width: int, height: int) -> Map:
    """Its own steps, of one layer: ReLU, scale, resize, and scale again."""
    coarse = scale_cam_image(np.maximum(raw, 0)[None], (width, height))
    final: Map = scale_cam_image(np.maximum(coarse, 0))[0]
    return final


@pytest.mark.parametrize("size", [(224, 224), (320, 192), (97, 131), (7, 7), (600, 31)])
@pytest.mark.parametrize("height", [1.0, 1e-7, 1e4])
def test_the_map_of_pytorch_grad_cam_is_reproduced(size: tuple[int, int], height: float) -> None:
    raw = np.random.default_rng(1).normal(size=(7, 9)).astype(np.float32) * height
    drawing = canvas(*size, normalize="pytorch-grad-cam")
    ours = evidence(drawing._scaled(raw, raw))
    np.testing.assert_allclose(ours, by_grad_cam(raw, *size), atol=1e-3)


def test_behind_a_crop_it_is_what_that_library_makes_of_the_crop() -> None:
    raw = np.random.default_rng(2).random((7, 7), np.float32) + 1
    drawing = canvas(300, 200, Box(50, 0, 250, 200), normalize="pytorch-grad-cam")
    scaled = drawing._scaled(raw, raw)
    ours = evidence(scaled[:, 50:250])
    np.testing.assert_allclose(ours, by_grad_cam(raw, 200, 200), atol=1e-3)
    assert not scaled[:, :50].any()


def test_a_score_that_can_hardly_rise_is_flagged() -> None:
    raw = np.eye(7, dtype=np.float32)
    assert canvas(20, 20).draw(found(raw, 0)).flags == ("saturated_score",)
    assert canvas(20, 20).draw(found(raw, 1)).flags == ()


def test_where_no_picture_is_asked_for_none_is_drawn(monkeypatch: pytest.MonkeyPatch) -> None:
    drawing = canvas(20, 20, output="boxes")
    expected = drawing.draw(found(np.eye(7, dtype=np.float32))).spots
    monkeypatch.delattr("app.imaging.render.quantize")
    drawn = drawing.draw(found(np.eye(7, dtype=np.float32)))
    assert (drawn.heatmap, drawn.overlay, drawn.spots) == (None, None, expected)


def test_ranges_are_shared_by_the_maps_of_a_method_alone() -> None:
    other = METHOD.model_copy(update={"name": "other"})
    maps = [found(np.array([[0, 1]], np.float32)), found(np.array([[0, 5]], np.float32), 0)]
    third = ClassMap(index=0, method="other", layer="l", values=np.array([[7, 9]], np.float32))
    ranges = shared_ranges([*maps, third], {"gradcam": METHOD, "other": other})
    assert {name: (r.low, r.high) for name, r in ranges.items()} == {
        "gradcam": (0, 5), "other": (7, 9),
    }  # fmt: skip
