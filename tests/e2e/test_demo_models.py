"""The shipped models see what they should, on fresh pictures, through the service itself."""

import asyncio
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from io import BytesIO

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from app.admission import Admission
from app.engine.local import LocalEngine
from app.evaluation.scenes import Scene, lesion_scene, shapes_scene
from app.imaging.geometry import lay
from app.main import make_runner
from app.options import ExplainOptions
from app.order import RequestLimits
from app.service import Service
from app.settings import Settings
from app.types import Answer
from tests.server import ROOT

FRESH = 77_000  # seeds that no training has used
TWO = ThreadPoolExecutor(2)
Draw = Callable[[np.random.Generator], Scene]


@pytest.fixture(scope="module")
def service() -> Service:
    settings = Settings(
        models_dir=ROOT / "models",
        models=("shapes", "shapes-vit", "lesion", "lesion-shortcut"),
        max_batch_size=1,
    )
    runner, names = make_runner(settings, "cpu", threads=1)
    runner.load(names, lambda: None)
    engine = LocalEngine(runner.run, runner.run_slowly, runner.catalogue)
    limits = RequestLimits(
        max_pixels=10**8,
        max_maps=16,
        max_picture_pixels=10**8,
        max_budget=10**6,
        deadline_s=600,
        slow_deadline_s=600,
    )
    return Service(engine, TWO, limits, Admission(2), "shapes")


def fresh(draw: Draw, n: int, series: int) -> list[Scene]:
    seeds = [[FRESH, series, index] for index in range(n)]
    return list(TWO.map(lambda seed: draw(np.random.default_rng(seed)), seeds))


def explain(
    service: Service,
    model: str,
    scenes: Sequence[Scene],
    classes: Callable[[Scene], int | str],
    method: str = "gradcam",
) -> Iterator[tuple[Answer, NDArray[np.float32]]]:
    """For each scene its answer, and the positive evidence for a class, pixel by pixel."""
    two_at_a_time = asyncio.Semaphore(2)

    async def one(scene: Scene) -> Answer:
        upload = BytesIO()
        Image.fromarray(scene.image).save(upload, "BMP")
        options = ExplainOptions(
            model=model, classes=(classes(scene),), output=("raw",), method=(method,)
        )
        async with two_at_a_time:
            return await service.answer(upload.getvalue(), options)

    async def every() -> list[Answer]:
        return await asyncio.gather(*map(one, scenes))

    for answer in asyncio.run(every()):
        size = (answer.image.width, answer.image.height)
        evidence = np.maximum(answer.explanations[0].raw, 0)
        yield answer, lay(evidence, answer.image.crop, size, size)


def accuracy(service: Service, model: str, scenes: Sequence[Scene]) -> float:
    answers = explain(service, model, scenes, lambda _: "top1")
    named = [answer.predictions[0].index for answer, _ in answers]
    return float(np.mean([index == s.label for index, s in zip(named, scenes, strict=True)]))


def inside_shares(service: Service, model: str, scenes: Sequence[Scene]) -> list[float]:
    maps = [found for _, found in explain(service, model, scenes, lambda _: "top1")]
    return [
        float(found[scene.mask].sum() / found.sum()) if found.any() else 0.0
        for found, scene in zip(maps, scenes, strict=True)
    ]


def with_sticker_on(label: int) -> Draw:
    def draw(rng: np.random.Generator) -> Scene:
        drawn = int(rng.integers(2))
        return lesion_scene(rng, label=drawn, sticker=drawn == label)

    return draw


def test_shapes_names_the_dominant_object(service: Service) -> None:
    assert accuracy(service, "shapes", fresh(shapes_scene, 200, 1)) >= 0.95


def pointing(service: Service, model: str, method: str) -> float:
    scenes = fresh(shapes_scene, 200, 2)
    answers = explain(service, model, scenes, lambda scene: scene.label, method)
    hits = [
        found.max() > 0 and bool(scene.mask.flat[found.argmax()])
        for (_, found), scene in zip(answers, scenes, strict=True)
    ]
    return float(np.mean(hits))


def test_the_peak_for_the_right_class_lies_inside_the_object(service: Service) -> None:
    assert pointing(service, "shapes", "gradcam") >= 0.90


def test_a_transformer_names_the_dominant_object_and_points_at_it(service: Service) -> None:
    assert accuracy(service, "shapes-vit", fresh(shapes_scene, 200, 1)) >= 0.92
    assert pointing(service, "shapes-vit", "chefer") >= 0.80
    assert pointing(service, "shapes-vit", "gradcam") >= 0.65


def test_lesion_tells_benign_from_suspicious(service: Service) -> None:
    assert accuracy(service, "lesion", fresh(lesion_scene, 100, 3)) >= 0.95


def test_the_shortcut_is_right_where_the_sticker_is_and_wrong_where_it_moved(
    service: Service,
) -> None:
    assert accuracy(service, "lesion-shortcut", fresh(with_sticker_on(1), 100, 4)) >= 0.95
    assert accuracy(service, "lesion-shortcut", fresh(with_sticker_on(0), 100, 5)) < 0.5


def test_the_heatmap_tells_the_honest_model_from_the_shortcut(service: Service) -> None:
    scenes = fresh(lambda rng: lesion_scene(rng, sticker=True), 200, 6)
    honest = float(np.median(inside_shares(service, "lesion", scenes)))
    misled = float(np.median(inside_shares(service, "lesion-shortcut", scenes)))
    assert honest >= 3 * misled
    assert honest >= 0.5
