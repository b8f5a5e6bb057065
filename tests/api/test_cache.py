"""Answers that are kept: the same question is worked on once."""

from dataclasses import replace
from typing import Any

import pytest

import app
from app.errors import ModelReplaced
from app.types import BUDGET_EXHAUSTED, Job, JobResult
from tests.api.client import EXPLAIN, PREDICT, Api, form_body, make_api, picture
from tests.fakes import CATALOGUE, COLOURS, FakeEngine


@pytest.fixture
def api() -> Api:
    return make_api(cache_bytes=300_000)


def outcomes(api: Api) -> list[str]:
    events = [event for line in api.events for event in line["events"]]
    return [labels["outcome"] for name, _, labels in events if name == "cache"]


def test_the_same_question_is_answered_twice_and_worked_on_once(api: Api) -> None:
    first, second = api.raw(), api.raw()
    assert second.content == first.content
    assert second.headers["etag"] == first.headers["etag"]
    assert second.headers["cache-control"] == "private, no-cache"
    assert second.headers["content-type"] == "application/json"
    assert second.headers["x-request-id"] != first.headers["x-request-id"]
    assert len(second.headers.get_list("x-request-id")) == 1
    assert len(api.engine.jobs) == 1
    assert outcomes(api) == ["miss", "hit"]


def test_the_form_of_the_request_does_not_matter(api: Api) -> None:
    tags = {
        api.raw(top_k=2).headers["etag"],
        api.form(top_k=2).headers["etag"],
        api.json(top_k=2, deadline_ms=5000).headers["etag"],
        api.raw(top_k=2, model="colours").headers["etag"],
    }
    assert len(tags) == 1
    assert len(api.engine.jobs) == 1


def test_another_release_of_the_server_answers_anew(
    api: Api, monkeypatch: pytest.MonkeyPatch
) -> None:
    tag = api.raw().headers["etag"]
    monkeypatch.setattr(app, "__version__", "another")
    response = api.raw(headers={"If-None-Match": tag})
    assert (response.status_code, len(api.engine.jobs)) == (200, 2)


@pytest.mark.parametrize(
    "other",
    [
        {"photo": picture("BMP")}, {"classes": "1"}, {"model": "twins"}, {"alpha": 0.5},
        {"headers": {"Accept": "image/png"}}, {"path": PREDICT},
    ],
    ids=lambda other: next(iter(other)),
)  # fmt: skip
def test_another_question_is_another_answer(api: Api, other: dict[str, Any]) -> None:
    first, second = api.raw(), api.raw(**other)
    assert second.status_code == 200
    assert second.headers["etag"] != first.headers["etag"]
    assert len(api.engine.jobs) == 2


def test_an_empty_mask_is_not_the_answer_without_one(api: Api) -> None:
    body, headers = form_body(("image", picture()))
    assert api.request("POST", EXPLAIN, content=body, headers=headers).status_code == 200
    body, headers = form_body(("image", picture()), ("mask", b""))
    assert api.request("POST", EXPLAIN, content=body, headers=headers).status_code == 422


def test_another_mask_is_another_answer(api: Api) -> None:
    bodies = [form_body(("image", picture()), ("mask", picture(size=size))) for size in
              ((60, 40), (30, 20))]  # fmt: skip
    tags = {
        api.request("POST", EXPLAIN, content=body, headers=headers).headers["etag"]
        for body, headers in bodies
    }
    assert len(tags) == 2


def test_who_has_the_answer_is_told_so(api: Api) -> None:
    tag = api.raw().headers["etag"]
    known = api.raw(headers={"If-None-Match": f'"other", {tag}'})
    assert (known.status_code, known.content, known.headers["etag"]) == (304, b"", tag)
    assert known.headers["cache-control"] == "private, no-cache"
    assert "Accept" in known.headers["vary"]
    assert api.raw(headers={"If-None-Match": '"other"'}).status_code == 200
    assert outcomes(api) == ["miss", "known", "hit"]


def test_an_overlay_is_kept_with_its_headers(api: Api) -> None:
    first, second = (api.raw(headers={"Accept": "image/png"}) for _ in range(2))
    assert second.content == first.content
    assert second.headers["x-top-label"] == first.headers["x-top-label"]


def test_a_new_version_of_a_model_is_asked_again(api: Api) -> None:
    api.raw()
    newer = COLOURS.model_copy(update={"version": "sha256:newer"})
    api.engine.known = [CATALOGUE.model_copy(update={"models": (newer,)})]
    assert api.raw().status_code == 200
    assert len(api.engine.jobs) == 2


class Switching(FakeEngine):
    """Serves another version as soon as a job has come."""

    async def submit(self, job: Job, on_progress: Any = None) -> JobResult:
        newer = COLOURS.model_copy(update={"version": "sha256:newer"})
        self.known = [CATALOGUE.model_copy(update={"models": (newer,)})]
        if job.version != "sha256:newer":
            raise ModelReplaced("It was replaced.")
        return await super().submit(job, on_progress)


def test_an_answer_of_a_version_that_came_meanwhile_is_not_kept_for_the_old_one() -> None:
    api = make_api(cache_bytes=300_000, engine=Switching())
    answer = api.raw()
    assert answer.json()["model"]["version"] == "sha256:newer"
    assert "etag" not in answer.headers


class Hasty(FakeEngine):
    """Never has the time for all passes."""

    async def submit(self, job: Job, on_progress: Any = None) -> JobResult:
        result = await super().submit(job, on_progress)
        maps = tuple(replace(found, flags=(BUDGET_EXHAUSTED,)) for found in result.maps)
        return replace(result, maps=maps)


def test_a_map_that_more_time_would_improve_is_not_kept() -> None:
    api = make_api(cache_bytes=300_000, engine=Hasty())
    hasty = api.raw(method="lime", deadline_ms=5000)
    assert hasty.json()["explanations"][0]["flags"] == [BUDGET_EXHAUSTED]
    assert "etag" not in hasty.headers
    api.raw(method="lime")
    assert len(api.engine.jobs) == 2


def test_errors_are_not_kept(api: Api) -> None:
    assert api.raw(photo=b"no picture").status_code == 415
    assert api.raw(photo=b"no picture").status_code == 415
    assert "hit" not in outcomes(api)


def test_the_least_recently_used_answer_makes_room() -> None:
    size = len(make_api().raw().content) + 1024
    api = make_api(cache_bytes=2 * size + size // 2)
    for classes in ("0", "1", "0", "2", "0", "1"):
        api.raw(classes=classes)
    assert outcomes(api) == ["miss", "miss", "hit", "miss", "hit", "miss"]


def test_an_answer_larger_than_the_room_is_not_kept() -> None:
    api = make_api(cache_bytes=10)
    assert [api.raw().status_code for _ in range(2)] == [200, 200]
    assert outcomes(api) == ["miss", "miss"]


def test_nothing_is_kept_unless_there_is_room_for_it() -> None:
    api = make_api()
    first, _second = api.raw(), api.raw()
    assert len(api.engine.jobs) == 2
    assert "etag" not in first.headers
    assert first.headers["cache-control"] == "no-store"
