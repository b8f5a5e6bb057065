"""The JSON that callers see, for the answer itself and for the documentation of it."""

from base64 import b64encode
from typing import Any

from pydantic import BaseModel, Field

import app
from app.types import Answer, Box, Explanation, Map, MethodInfo, ModelInfo, Picture
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


class ExplanationOut(BaseModel):
    index: int
    label: str
    method: str
    layer: str
    grid: Grid
    heatmap: EncodedPicture | None = Field(None, description="Palette picture with transparency.")
    overlay: EncodedPicture | None = None
    raw: RawMap | None = None
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
    """An answer as the body of ``PredictResponse`` or ``ExplainResponse``."""
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
            seed=answer.seed,
            normalize="minmax",
            precision=answer.model.precision,
            camserve=app.__version__,
            torch=answer.torch,
        ),
        "timings_ms": {stage: round(ms, 3) for stage, ms in answer.timings.items()},
    }
    if not explained:
        return PredictResponse(**common).model_dump_json(exclude_none=True).encode()
    explanations = [_explanation(e) for e in answer.explanations]
    response = ExplainResponse(**common, explanations=explanations)
    return response.model_dump_json(exclude_none=True).encode()


def _corners(box: Box) -> tuple[float, float, float, float]:
    return box.x0, box.y0, box.x1, box.y1


def _prediction(p: PredictionNumbers) -> Prediction:
    return Prediction(index=p.index, label=p.label, score=p.score, logit=p.logit)


def _explanation(e: Explanation) -> ExplanationOut:
    return ExplanationOut(
        index=e.index,
        label=e.label,
        method=e.method,
        layer=e.layer,
        grid=_grid(e.grid, e.raw),
        heatmap=_picture(e.heatmap),
        overlay=_picture(e.overlay),
        raw=_raw(e.raw) if e.with_raw else None,
        flags=list(e.flags),
        residual=e.residual,
    )


def _grid(values: Map, raw: Map) -> Grid:
    return Grid(
        shape=(values.shape[0], values.shape[1]),
        values=values.tolist(),
        min=float(raw.min()),
        max=float(raw.max()),
        native_shape=None if raw.shape == values.shape else (raw.shape[0], raw.shape[1]),
    )


def _picture(picture: Picture | None) -> EncodedPicture | None:
    if picture is None:
        return None
    return EncodedPicture(
        media_type=picture.media_type,
        width=picture.width,
        height=picture.height,
        base64=b64encode(picture.data).decode(),
    )


def _raw(values: Map) -> RawMap:
    data = values.astype("<f4").tobytes()
    return RawMap(shape=(values.shape[0], values.shape[1]), base64=b64encode(data).decode())
