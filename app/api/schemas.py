"""The JSON that callers see; ``writing.py`` fills it."""

from pydantic import BaseModel, Field

from app.types import MethodInfo, ModelInfo


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
    score: float = Field(
        description="Softmax probability; where classes are independent, the sigmoid."
    )
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


class MethodOut(MethodInfo):
    models: tuple[str, ...] = Field(description="The ready models that it suits.")


class MethodsResponse(BaseModel):
    methods: list[MethodOut]


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
