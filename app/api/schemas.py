"""The JSON that callers see, for the answer itself and for the documentation of it."""

from base64 import b64encode
from typing import Any

from pydantic import BaseModel, Field

import app
from app.types import (
    Answer,
    Box,
    Curve,
    Explanation,
    HotSpot,
    Map,
    MethodInfo,
    ModelInfo,
    Picture,
    RegionReport,
)
from app.types import Prediction as PredictionNumbers


class ModelRef(BaseModel):
    name: str
    version: str = Field(description="Hash of manifest, labels and weights.")


class Image(BaseModel):
    width: int = Field(description="Of the upright upload, as all coordinates here.")
    height: int
    format: str
    orientation: int = Field(description="The EXIF orientation that was undone, 1 to 8.")
    crop: tuple[float, float, float, float] = Field(
        description="The part the model saw: x0, y0, x1, y1, half-open."
    )


class Prediction(BaseModel):
    index: int
    label: str
    score: float = Field(description="Softmax probability.")
    logit: float


class Grid(BaseModel):
    shape: tuple[int, int]
    values: list[list[float]] = Field(
        description="The raw map: signed, before any ReLU; row-major."
    )
    min: float = Field(description="Of the map in its native shape, as max.")
    max: float
    native_shape: tuple[int, int] | None = Field(
        None, description="Of a map finer than 56x56: values are averages of its areas."
    )


class EncodedPicture(BaseModel):
    media_type: str
    width: int
    height: int
    base64: str


class RawMap(BaseModel):
    shape: tuple[int, int]
    dtype: str = Field("<f4", description="Little-endian float32, row-major.")
    base64: str


class HotSpotOut(BaseModel):
    box: tuple[float, float, float, float] = Field(description="x0, y0, x1, y1, half-open.")
    peak: float = Field(description="Of the hottest of the map, which is 1.")
    contour: list[tuple[float, float]] = Field(description="Its outline, closed.")


class Counterfactual(BaseModel):
    score: float = Field(description="Of the picture as it is.")
    inside_blurred: float
    outside_blurred: float


class RegionOut(BaseModel):
    inside_share: float = Field(description="Of the positive evidence, that inside the region.")
    area_share: float = Field(description="Of what the model saw, the part that is the region.")
    lift: float | None = Field(description="inside_share by area_share; null where that is 0.")
    peak_inside: bool
    counterfactual: Counterfactual | None = None


class CurveOut(BaseModel):
    scores: list[float] = Field(description="In equal steps, from none of the picture to all.")
    area: float = Field(description="Under it: small for deletion, large for insertion.")
    random_area: float = Field(description="The same for a random map with the same seed.")


class ExplanationOut(BaseModel):
    index: int
    label: str
    method: str
    layer: str
    grid: Grid
    heatmap: EncodedPicture | None = Field(None, description="Palette picture with transparency.")
    overlay: EncodedPicture | None = None
    raw: RawMap | None = None
    boxes: list[HotSpotOut] | None = Field(None, description="The hottest first.")
    region: RegionOut | None = Field(
        None, description="null where there is no positive evidence; absent if not asked for."
    )
    checks: dict[str, CurveOut] | None = None
    flags: list[str] = Field(description="For example no_positive_evidence, budget_exhausted.")
    residual: float | None = Field(
        None,
        description="By how much the map's sum misses the difference of logits that it promises.",
    )


class Receipt(BaseModel):
    seed: int | None = Field(None, description="What methods that draw at random began with.")
    normalize: str
    precision: str
    camserve: str
    torch: str


class PredictResponse(BaseModel):
    id: str
    model: ModelRef
    image: Image
    predictions: list[Prediction]
    receipt: Receipt
    timings_ms: dict[str, float]


class ExplainResponse(PredictResponse):
    explanations: list[ExplanationOut]


class FieldError(BaseModel):
    field: str
    detail: str


class Problem(BaseModel):
    """RFC 9457."""

    type: str
    title: str
    status: int
    code: str
    detail: str
    request_id: str
    retryable: bool
    errors: list[FieldError] = []
    limits: dict[str, int] = Field({}, description="Those that were passed.")
    accepted: list[str] = Field([], description="What would have been accepted instead.")


class ModelsResponse(BaseModel):
    default: str
    models: list[ModelInfo]


class MethodsResponse(BaseModel):
    methods: list[MethodInfo]


class LimitsResponse(BaseModel):
    max_body_bytes: int
    max_pixels: int
    max_maps: int
    max_picture_pixels: int
    max_budget: int
    deadline_ms: int
    slow_deadline_ms: int
    formats: list[str]


class Sample(BaseModel):
    name: str
    url: str
    mask: str
    model: str
    caption: str


class SamplesResponse(BaseModel):
    samples: list[Sample]


class Liveness(BaseModel):
    status: str


class Readiness(BaseModel):
    status: str
    missing: dict[str, str] = {}


def answer_json(answer: Answer, request_id: str, *, explained: bool) -> bytes:
    """An answer as the body of ``PredictResponse`` or ``ExplainResponse``.

    What is not set here was not asked for, and is left out; what is None was, and is null.
    """
    seed: dict[str, Any] = {} if answer.seed is None else {"seed": answer.seed}
    common: dict[str, Any] = {
        "id": request_id,
        "model": ModelRef(name=answer.model.name, version=str(answer.model.version)),
        "image": Image(
            width=answer.image.width,
            height=answer.image.height,
            format=answer.image.format,
            orientation=answer.image.orientation,
            crop=_corners(answer.image.crop),
        ),
        "predictions": [_prediction(p) for p in answer.predictions],
        "receipt": Receipt(
            **seed,
            normalize=answer.normalize,
            precision=answer.model.precision,
            camserve=app.__version__,
            torch=answer.torch,
        ),
        "timings_ms": {stage: round(ms, 3) for stage, ms in answer.timings.items()},
    }
    if not explained:
        return PredictResponse(**common).model_dump_json(exclude_unset=True).encode()
    explanations = [_explanation(e) for e in answer.explanations]
    response = ExplainResponse(**common, explanations=explanations)
    return response.model_dump_json(exclude_unset=True).encode()


def _corners(box: Box) -> tuple[float, float, float, float]:
    return box.x0, box.y0, box.x1, box.y1


def _prediction(p: PredictionNumbers) -> Prediction:
    return Prediction(index=p.index, label=p.label, score=p.score, logit=p.logit)


def _explanation(e: Explanation) -> ExplanationOut:
    asked: dict[str, Any] = {}
    if e.heatmap:
        asked["heatmap"] = _picture(e.heatmap)
    if e.overlay:
        asked["overlay"] = _picture(e.overlay)
    if e.with_raw:
        asked["raw"] = _raw(e.raw)
    if e.residual is not None:
        asked["residual"] = e.residual
    if e.spots is not None:
        asked["boxes"] = [_spot(spot) for spot in e.spots]
    if e.with_region:
        asked["region"] = e.region and _region(e.region)
    if e.checks is not None:
        asked["checks"] = {kind: _curve(curve) for kind, curve in e.checks.items()}
    return ExplanationOut(
        index=e.index,
        label=e.label,
        method=e.method,
        layer=e.layer,
        grid=_grid(e.grid, e.raw),
        flags=list(e.flags),
        **asked,
    )


def _grid(values: Map, raw: Map) -> Grid:
    averaged: dict[str, Any] = {} if raw.shape == values.shape else {"native_shape": raw.shape}
    return Grid(
        shape=(values.shape[0], values.shape[1]),
        values=values.tolist(),
        min=float(raw.min()),
        max=float(raw.max()),
        **averaged,
    )


def _picture(picture: Picture) -> EncodedPicture:
    return EncodedPicture(
        media_type=picture.media_type,
        width=picture.width,
        height=picture.height,
        base64=b64encode(picture.data).decode(),
    )


def _raw(values: Map) -> RawMap:
    data = values.astype("<f4").tobytes()
    return RawMap(
        shape=(values.shape[0], values.shape[1]), dtype="<f4", base64=b64encode(data).decode()
    )


def _spot(spot: HotSpot) -> HotSpotOut:
    return HotSpotOut(box=_corners(spot.box), peak=spot.peak, contour=list(spot.contour))


def _region(report: RegionReport) -> RegionOut:
    asked: dict[str, Any] = {}
    if report.counterfactual:
        score, inside, outside = report.counterfactual
        asked["counterfactual"] = Counterfactual(
            score=score, inside_blurred=inside, outside_blurred=outside
        )
    return RegionOut(
        inside_share=report.inside_share,
        area_share=report.area_share,
        lift=report.lift,
        peak_inside=report.peak_inside,
        **asked,
    )


def _curve(curve: Curve) -> CurveOut:
    return CurveOut(scores=list(curve.scores), area=curve.area, random_area=curve.random_area)
