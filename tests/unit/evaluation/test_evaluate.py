"""Questions, the figures that answer them, and how these are shown."""

import asyncio
import json
from concurrent.futures import ThreadPoolExecutor
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from app.admission import Admission
from app.errors import SetupError
from app.evaluation.evaluate import Figures, evaluate
from app.evaluation.questions import Question, fresh, of_folder
from app.evaluation.report import as_json, as_plot, as_table
from app.order import RequestLimits
from app.service import Service
from tests.fakes import COLOURS, FakeEngine


def png(array: np.ndarray[tuple[int, ...], np.dtype[np.uint8]]) -> bytes:
    out = BytesIO()
    Image.fromarray(array).save(out, "PNG")
    return out.getvalue()


def red_left(*, mask_left: bool) -> Question:
    """Red on the left, green on the right; the mask on one of them."""
    image = np.zeros((40, 40, 3), np.uint8)
    image[:, :22, 0], image[:, 22:, 1] = 250, 250
    mask = np.zeros((40, 40), np.uint8)
    mask[:, : 20 if mask_left else None] = 255
    if not mask_left:
        mask[:, :22] = 0
    return Question(png(image), png(mask), "red")


def figures_of(*questions: Question) -> Figures:
    limits = RequestLimits(
        max_pixels=10**6,
        max_maps=9,
        max_picture_pixels=10**7,
        max_budget=1000,
        deadline_s=60,
        slow_deadline_s=60,
    )
    service = Service(FakeEngine(), ThreadPoolExecutor(1), limits, Admission(9), "colours")
    return asyncio.run(evaluate(service, COLOURS, "gradcam", questions, 100))


def test_a_map_on_its_object_scores_and_one_beside_it_does_not() -> None:
    right, wrong = figures_of(red_left(mask_left=True)), figures_of(red_left(mask_left=False))
    assert (right.pointing, wrong.pointing) == (1, 0)
    assert right.inside > 0.8
    assert wrong.inside < 0.1
    assert right.deletion < right.random_deletion
    assert right.insertion > right.random_insertion


def test_figures_are_means_over_the_questions() -> None:
    both = figures_of(red_left(mask_left=True), red_left(mask_left=False))
    assert (both.questions, both.pointing) == (2, 0.5)
    assert 0 <= both.drop <= 1
    assert both.increase in {0, 0.5, 1}


def test_fresh_scenes_ask_for_each_object_and_are_the_same_for_the_same_seed() -> None:
    one, same, other = (fresh("shapes", 5, seed) for seed in (1, 1, 2))
    assert one == same != other
    assert len(one) == 5
    assert one[0].image == one[1].image, "two objects at least"
    assert one[0].mask != one[1].mask
    assert {q.class_name for q in fresh("lesion", 8, 0)} <= {0, 1}


def test_a_model_without_scenes_needs_a_folder() -> None:
    with pytest.raises(SetupError, match="folder of pictures"):
        fresh("resnet50", 1, 0)


def test_a_folder_gives_the_pictures_that_have_masks(tmp_path: Path) -> None:
    question = red_left(mask_left=True)
    (tmp_path / "a.png").write_bytes(question.image)
    (tmp_path / "a.mask.png").write_bytes(question.mask)
    (tmp_path / "b.png").write_bytes(question.image)
    (tmp_path / "notes.txt").write_text("")
    assert of_folder(tmp_path) == [Question(question.image, question.mask, "top1")]
    (tmp_path / "a.mask.png").unlink()
    with pytest.raises(SetupError, match=r"x\.mask\.png"):
        of_folder(tmp_path)


def test_figures_become_a_table_json_and_a_plot() -> None:
    rows = [figures_of(red_left(mask_left=True))] * 2
    head, rule, *lines = as_table(rows).splitlines()
    assert len(lines) == 2
    assert head.count("|") == rule.count("|") == lines[0].count("|")
    assert "`gradcam` | 1.00" in lines[0]
    assert json.loads(as_json(rows))[0]["method"] == "gradcam"
    plot = as_plot(rows)
    assert plot.getextrema() != ((255, 255),) * 3
