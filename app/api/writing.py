"""An answer becomes JSON."""

from typing import Any

import orjson
from pybase64 import b64encode_as_string
from pydantic import BaseModel

import app
from app.api.schemas import (
    Counterfactual,
    CurveOut,
    EncodedPicture,
    ExplainResponse,
    ExplanationOut,
    Grid,
    HotSpotOut,
    Image,
    ModelRef,
    Prediction,
    PredictResponse,
    RawMap,
    Receipt,
    RegionOut,
)
from app.types import Answer, Box, Curve, Explanation, HotSpot, Map, Picture, RegionReport
from app.types import Prediction as PredictionNumbers


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
        return _dump(PredictResponse(**common))
    explanations = [_explanation(e) for e in answer.explanations]
    return _dump(ExplainResponse(**common, explanations=explanations))


def _dump(response: BaseModel) -> bytes:
    # pydantic's own writer looks at each letter of a picture: a third of a millisecond.
    return orjson.dumps(response.model_dump(exclude_unset=True))


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
        base64=b64encode_as_string(picture.data),
    )


def _raw(values: Map) -> RawMap:
    data = values.astype("<f4").tobytes()
    return RawMap(
        shape=(values.shape[0], values.shape[1]), dtype="<f4", base64=b64encode_as_string(data)
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
