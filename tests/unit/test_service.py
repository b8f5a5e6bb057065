"""The use case: decode, submit, render."""

import asyncio
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextvars import ContextVar
from io import BytesIO

import numpy as np
import pytest
from PIL import Image

from app.admission import Admission
from app.errors import (
    DeadlineExceeded,
    InvalidOption,
    ModelReplaced,
    NoWorker,
    Overloaded,
    TooManyPixels,
)
from app.options import ExplainOptions, PredictOptions
from app.order import RequestLimits
from app.service import OnProgress, Service
from app.types import Answer, Box, Job, JobResult, Progress
from tests.fakes import CATALOGUE, COLOURS, FakeEngine
from tests.pictures import encode, make_picture, make_upload

THREADS = ThreadPoolExecutor(2)


def make_service(engine: FakeEngine, deadline_s: float = 60) -> Service:
    limits = RequestLimits(
        max_pixels=4_000_000,
        max_maps=8,
        max_picture_pixels=10_000_000,
        max_budget=1000,
        deadline_s=deadline_s,
        slow_deadline_s=600,
    )
    return Service(engine, THREADS, limits, Admission(2), "colours")


def answer(upload: bytes, options: PredictOptions, engine: FakeEngine | None = None) -> Answer:
    return asyncio.run(make_service(engine or FakeEngine()).answer(upload, options))


def test_a_prediction_has_scores_in_order_and_no_maps() -> None:
    predicted = answer(make_upload(), PredictOptions())
    scores = [prediction.score for prediction in predicted.predictions]
    assert scores == sorted(scores, reverse=True)
    assert sum(scores) == pytest.approx(1)
    assert predicted.explanations == ()
    assert "render" not in predicted.timings


def test_every_stage_is_timed_and_the_total_covers_them() -> None:
    timings = answer(make_upload(), ExplainOptions()).timings
    assert {"decode", "queue", "forward", "render", "total"} <= timings.keys()
    assert timings["total"] >= timings["decode"] + timings["render"]


def test_the_total_runs_from_when_the_request_was_there() -> None:
    service = make_service(FakeEngine())
    work = service.answer(make_upload(), PredictOptions(), began=time.monotonic() - 5)
    assert asyncio.run(work).timings["total"] > 5000


def test_where_a_check_fails_no_job_of_it_goes_on() -> None:
    class Failing(FakeEngine):
        async def submit(self, job: Job, on_progress: OnProgress | None = None) -> JobResult:
            if len(self.jobs) == 3:
                raise NoWorker("gone")
            if self.jobs:
                self.gate = asyncio.Event()  # all after the first one wait
            return await super().submit(job, on_progress)

    async def scenario() -> None:
        engine = Failing()
        options = ExplainOptions(check=("deletion",))
        with pytest.raises(NoWorker):
            await make_service(engine).answer(make_upload(), options)
        await asyncio.sleep(0)
        assert engine.cancelled == engine.jobs[1:]

    asyncio.run(scenario())


def test_the_crop_is_told_in_pixels_of_the_upload() -> None:
    assert answer(make_upload(300, 200), PredictOptions()).image.crop == Box(50, 0, 250, 200)
    assert answer(make_upload(300, 200), PredictOptions(view="full")).image.crop == Box(
        0, 0, 300, 200
    )


@pytest.mark.parametrize("size", [100, 640, 1500])
def test_scores_do_not_depend_on_what_is_shown_and_what_is_shown_is_sharp(size: int) -> None:
    picture = make_picture(1600, 1200)
    picture.putpixel((0, 0), (255, 255, 255))
    upload = encode(picture)
    predicted = answer(upload, PredictOptions())
    options = ExplainOptions(output=("overlay",), size=size, alpha=0)
    explained = answer(upload, options)
    assert explained.predictions == predicted.predictions
    overlay = explained.explanations[0].overlay
    assert overlay is not None
    assert (overlay.width, overlay.height) == (size, size * 3 // 4)
    with Image.open(BytesIO(overlay.data)) as shown, Image.open(BytesIO(upload)) as sent:
        resized = sent.convert("RGB").resize(shown.size, Image.Resampling.BILINEAR)
        difference = np.abs(np.asarray(shown, np.int16) - np.asarray(resized, np.int16))
    assert difference.mean() < 2


def test_the_deadline_covers_every_stage() -> None:
    async def run() -> None:
        engine = FakeEngine(gate=asyncio.Event())
        task = asyncio.create_task(
            make_service(engine).answer(make_upload(), PredictOptions(deadline_ms=50))
        )
        with pytest.raises(DeadlineExceeded, match=r"0\.05 s"):
            await task
        assert len(engine.cancelled) == len(engine.jobs)

    asyncio.run(run())


def test_the_deadline_counts_from_when_the_request_was_there() -> None:
    async def run() -> None:
        engine = FakeEngine()
        long_ago = time.monotonic() - 100
        with pytest.raises(DeadlineExceeded):
            await make_service(engine).answer(make_upload(), PredictOptions(), long_ago)
        assert engine.jobs == []

    asyncio.run(run())


def test_requests_over_the_limit_are_refused_before_they_are_decoded() -> None:
    async def run() -> None:
        engine = FakeEngine(gate=asyncio.Event())
        service = make_service(engine)
        tasks = [
            asyncio.create_task(service.answer(make_upload(), PredictOptions())) for _ in range(2)
        ]
        await asyncio.sleep(0)  # both have begun
        with pytest.raises(Overloaded):
            await service.answer(b"not a picture", PredictOptions())
        engine.gate = None
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await service.answer(make_upload(), PredictOptions())  # their places are free

    asyncio.run(run())


def test_pictures_that_are_too_much_together_are_refused_before_the_engine_sees_anything() -> None:
    engine = FakeEngine()
    upload = make_upload(2000, 1000)
    options = {"output": ("heatmap", "overlay"), "size": 2000}
    answer(upload, ExplainOptions.model_validate({**options, "classes": "top2"}), engine)
    engine.jobs.clear()
    with pytest.raises(InvalidOption, match="6 pictures of 2000x1000") as caught:
        answer(upload, ExplainOptions.model_validate({**options, "classes": "top3"}), engine)
    assert caught.value.extra == {"limits": {"max_picture_pixels": 10_000_000}}
    assert engine.jobs == []
    answer(upload, ExplainOptions.model_validate({"classes": "top3", "output": "raw"}), engine)


def test_a_callers_deadline_cannot_be_longer_than_the_servers() -> None:
    async def run() -> None:
        engine = FakeEngine(gate=asyncio.Event())
        with pytest.raises(DeadlineExceeded):
            await make_service(engine, deadline_s=0.05).answer(
                make_upload(), PredictOptions(deadline_ms=3_600_000)
            )

    asyncio.run(run())


def test_methods_of_many_passes_have_a_budget_and_time_of_their_own() -> None:
    engine = FakeEngine()
    told: list[Progress] = []
    options = ExplainOptions(method=("lime",), seed=7)
    began = time.monotonic() - 100  # too late for others

    async def run() -> Answer:
        return await make_service(engine).answer(make_upload(), options, began, told.append)

    asyncio.run(run())
    (job,) = engine.jobs
    assert (job.slow, job.seed, job.budget) == (True, 7, 1000)
    assert job.deadline == pytest.approx(began + 600)
    assert told == [Progress(0, 3), Progress(1, 3), Progress(2, 3)]
    answer(make_upload(), options.model_copy(update={"budget": 12}), engine)
    assert engine.jobs[1].budget == 12


def test_a_budget_above_the_limit_is_refused() -> None:
    with pytest.raises(InvalidOption, match="budget: the limit is 1000"):
        answer(make_upload(), ExplainOptions(method=("lime",), budget=1001))


def test_limits_hold_before_the_engine_sees_anything() -> None:
    engine = FakeEngine()
    with pytest.raises(TooManyPixels):
        answer(make_upload(2100, 2000), PredictOptions(), engine)
    assert engine.jobs == []


def test_without_a_worker_nothing_is_decoded() -> None:
    with pytest.raises(NoWorker):
        answer(b"not a picture", PredictOptions(), FakeEngine(known=[]))


def test_a_thread_knows_the_request_that_it_works_for() -> None:
    variable: ContextVar[str] = ContextVar("variable")

    async def run() -> str:
        variable.set("mine")
        return await make_service(FakeEngine())._in_thread(variable.get)

    assert asyncio.run(run()) == "mine"


def test_a_map_without_positive_evidence_has_a_blank_picture_and_says_so() -> None:
    black = encode(Image.new("RGB", (64, 64)), "PNG")
    (explanation,) = answer(black, ExplainOptions(classes=(0,))).explanations
    assert explanation.flags == ("no_positive_evidence",)
    assert explanation.raw.max() < 0
    assert explanation.heatmap is not None
    with Image.open(BytesIO(explanation.heatmap.data)) as picture:
        assert set(picture.convert("RGBA").getchannel("A").tobytes()) == {0}


class Switching(FakeEngine):
    """Has another version of its model whenever a job comes, some times."""

    switches = 1

    async def submit(
        self, job: Job, on_progress: Callable[[Progress], None] | None = None
    ) -> JobResult:
        if not self.switches:
            return await super().submit(job, on_progress)
        self.switches -= 1
        model = COLOURS.model_copy(update={"version": f"sha256:{self.switches}"})
        self.known = [CATALOGUE.model_copy(update={"models": (model,)})]
        raise ModelReplaced("gone")


def test_a_request_whose_model_is_replaced_under_way_is_answered_by_the_new_version() -> None:
    engine = Switching()
    answered = answer(make_upload(), ExplainOptions(), engine)
    assert answered.model.version == engine.jobs[0].version == "sha256:0"


def test_a_request_whose_model_is_replaced_again_and_again_is_told_so() -> None:
    engine = Switching()
    engine.switches = 100
    with pytest.raises(ModelReplaced):
        answer(make_upload(), PredictOptions(), engine)
