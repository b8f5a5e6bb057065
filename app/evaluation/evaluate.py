"""How good are the maps of a model, method by method? Asked of the service, as any caller would."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from io import BytesIO

import numpy as np
from PIL import Image

from app.evaluation.questions import Question
from app.imaging.decode import decode
from app.imaging.geometry import lay
from app.imaging.hiding import blend
from app.imaging.normalize import normalize
from app.imaging.preprocess import needed, preprocess
from app.options import ExplainOptions, PredictOptions
from app.service import Service
from app.types import Answer, Box, ModelInfo, Pixels, Preprocess

_ANY_SIZE = 10**9


@dataclass(frozen=True, slots=True)
class Figures:
    """Means over the questions of one method.

    ``pointing``: the peak lies inside the mask (Zhang et al. 2016). ``inside``: the share of the
    positive evidence that does (energy-based pointing, Wang et al. 2020). ``deletion`` and
    ``insertion``: areas under the curves (Petsiuk et al. 2018), and those of a random map. ``drop``
    and ``increase``: how much of the score is lost, and how often it rises, when the picture is
    seen through the map (Chattopadhay et al. 2018).
    """

    model: str
    method: str
    questions: int
    pointing: float
    inside: float
    deletion: float
    random_deletion: float
    insertion: float
    random_insertion: float
    drop: float
    increase: float


async def evaluate(
    service: Service,
    model: ModelInfo,
    method: str,
    questions: Sequence[Question],
    budget: int,
    on_question: Callable[[], None] = lambda: None,
) -> Figures:
    """Ask every question of one method.

    Args:
        service: knows the model.
        model: a ready one.
        method: that suits it.
        questions: at least one.
        budget: passes for each map.
        on_question: called after each.
    """
    rows = []
    for question in questions:
        rows.append(await _ask(service, model, method, question, budget))
        on_question()
    pointing, inside, deletion, random_d, insertion, random_i, drop, increase = np.mean(
        rows, axis=0
    ).tolist()
    return Figures(
        model=model.name,
        method=method,
        questions=len(questions),
        pointing=pointing,
        inside=inside,
        deletion=deletion,
        random_deletion=random_d,
        insertion=insertion,
        random_insertion=random_i,
        drop=drop,
        increase=increase,
    )


async def _ask(
    service: Service, model: ModelInfo, method: str, question: Question, budget: int
) -> list[float]:
    options = ExplainOptions(
        model=model.name,
        method=(method,),
        classes=(question.class_name,),
        output=("raw",),
        check=("deletion", "insertion"),
        budget=budget,
        top_k=1000,
    )
    answer = await service.answer(question.image, options, mask=question.mask)
    (found,) = answer.explanations
    assert found.checks is not None  # noqa: S101 - they were asked for
    deletion, insertion = found.checks["deletion"], found.checks["insertion"]
    before = next(p.score for p in answer.predictions if p.index == found.index)
    after = await _through_the_map(service, model, question, answer)
    return [
        float(found.region is not None and found.region.peak_inside),
        found.region.inside_share if found.region else 0.0,
        deletion.area,
        deletion.random_area,
        insertion.area,
        insertion.random_area,
        max(0.0, before - after) / before,
        float(after > before),
    ]


async def _through_the_map(
    service: Service, model: ModelInfo, question: Question, answer: Answer
) -> float:
    """The class's score of the model's input, seen through the map; the rest is the mean colour."""
    (found,) = answer.explanations
    assert isinstance(model.preprocess, Preprocess)  # noqa: S101 - a ready model has one
    pixels, mean = model_input(model.preprocess, question.image)
    height, width = pixels.shape[:2]
    evidence, _ = normalize(found.raw, relu=True)
    visible = lay(evidence, Box(0, 0, width, height), (width, height), (width, height))
    out = BytesIO()
    Image.fromarray(blend(mean, pixels, visible)).save(out, "BMP")
    options = PredictOptions(model=model.name, view="full", top_k=1000)
    seen = await service.answer(out.getvalue(), options)
    return next(p.score for p in seen.predictions if p.index == found.index)


def model_input(spec: Preprocess, image: bytes) -> tuple[Pixels, Pixels]:
    """What a model sees of a picture, and as much of the mean colour."""
    decoded = decode(image, max_pixels=_ANY_SIZE, needed=lambda w, h: needed(w, h, spec, "crop"))
    pixels, _ = preprocess(decoded, spec, "crop")
    mean = np.array([round(255 * level) for level in spec.mean], np.uint8)
    return pixels, np.broadcast_to(mean, pixels.shape)
