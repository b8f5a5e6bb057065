"""What holds for every response: its identity, its CORS headers, the shape of its errors."""

import asyncio
import logging
import re
from collections.abc import Callable

import httpx
import pytest

from app.api.schemas import Problem
from app.errors import (
    CamserveError,
    DeadlineExceeded,
    NonFiniteOutput,
    Overloaded,
    PoisonInput,
    WorkerLost,
)
from tests.api.client import EXPLAIN, MAX_BODY, ORIGIN, PHOTO, PREDICT, Api, Wire, make_api
from tests.fakes import FakeEngine

EXPOSED = {
    "ETag", "X-Request-ID", "Retry-After", "Server-Timing",
    "X-Top-Index", "X-Top-Score", "X-Top-Label",
}  # fmt: skip
Ask = Callable[[Api, dict[str, str]], httpx.Response]


def fail(api: Api, error: Exception, headers: dict[str, str] | None = None) -> httpx.Response:
    api.engine.error = error
    return api.raw(headers=headers)


RESPONSES: dict[int, Ask] = {
    200: lambda api, headers: api.raw(headers=headers),
    400: lambda api, headers: api.raw(headers={**headers, "Content-Type": "application/json"}),
    401: lambda _api, headers: make_api(keys=["k"]).raw(headers=headers),
    404: lambda api, headers: api.get("/nowhere", **headers),
    405: lambda api, headers: api.get(EXPLAIN, **headers),
    406: lambda api, headers: api.raw(headers={**headers, "Accept": "text/html"}),
    413: lambda api, headers: api.raw(photo=bytes(MAX_BODY * 2), headers=headers),
    415: lambda api, headers: api.raw(headers={**headers, "Content-Type": "text/plain"}),
    422: lambda api, headers: api.raw(headers=headers, top_k="x"),
    429: lambda api, headers: fail(api, Overloaded("Too many.", retry_after=3), headers),
    431: lambda api, headers: api.get("/livez", **headers, Junk="x" * 40_000),
    500: lambda api, headers: fail(api, RuntimeError("secret"), headers),
    503: lambda api, headers: api.raw(headers=headers, model="late"),
    504: lambda api, headers: fail(api, DeadlineExceeded("Too late."), headers),
}


@pytest.mark.parametrize("status", RESPONSES)
def test_every_response_has_its_id_and_the_cors_headers(api: Api, status: int) -> None:
    response = RESPONSES[status](api, {"Origin": ORIGIN, "X-Request-ID": "my-id.1_2"})
    assert response.status_code == status
    assert response.headers["X-Request-ID"] == "my-id.1_2"
    assert response.headers["X-Content-Type-Options"] == "nosniff"
    assert response.headers["Access-Control-Allow-Origin"] == "*"
    assert set(response.headers["Access-Control-Expose-Headers"].split(", ")) == EXPOSED


@pytest.mark.parametrize("status", [status for status in RESPONSES if status >= 400])
def test_every_error_is_a_problem_document(api: Api, status: int) -> None:
    response = RESPONSES[status](api, {})
    assert response.headers["Content-Type"] == "application/problem+json"
    assert response.headers["Cache-Control"] == "no-store"
    problem = Problem.model_validate(response.json())
    assert problem.status == response.status_code == status
    assert problem.request_id == response.headers["X-Request-ID"]
    assert problem.detail.endswith((".", "…'."))


@pytest.mark.parametrize("given", ["", "two words", "x" * 129, "semi;colon", "naïve", "a\tb"])
def test_an_ill_formed_request_id_is_replaced(api: Api, given: str) -> None:
    response = api.request("GET", "/livez", headers={"X-Request-ID": given.encode()})
    assert re.fullmatch("[0-9a-f]{32}", response.headers["X-Request-ID"])


def test_each_request_gets_an_id_of_its_own(api: Api) -> None:
    assert len({api.get("/livez").headers["X-Request-ID"] for _ in range(3)}) == 3


@pytest.mark.parametrize("keys", [[], ["secret"]])
def test_a_preflight_is_answered_even_where_keys_are_asked_for(keys: list[str]) -> None:
    response = make_api(keys=keys).request(
        "OPTIONS",
        EXPLAIN,
        headers={
            "Origin": ORIGIN,
            "Access-Control-Request-Method": "POST",
            "Access-Control-Request-Headers": "X-API-Key, Content-Type",
        },
    )
    assert response.status_code == 200
    assert response.headers["Access-Control-Allow-Origin"] == "*"
    assert "X-API-Key" in response.headers["Access-Control-Allow-Headers"]
    assert "X-Request-ID" in response.headers


def test_only_the_origins_that_the_operator_names_may_call() -> None:
    api = make_api(cors_origins=[ORIGIN])
    assert api.get("/livez", Origin=ORIGIN).headers["Access-Control-Allow-Origin"] == ORIGIN
    assert "Access-Control-Allow-Origin" not in api.get("/livez", Origin="https://x").headers


def test_a_preflight_that_is_refused_says_so_in_our_shape() -> None:
    api = make_api(cors_origins=[ORIGIN])
    asks = {"Origin": "https://x", "Access-Control-Request-Method": "POST"}
    refused = api.request("OPTIONS", EXPLAIN, headers=asks)
    assert (refused.status_code, Problem.model_validate(refused.json()).status) == (400, 400)
    assert refused.headers["Content-Type"] == "application/problem+json"
    assert "APP_CORS_ORIGINS" in refused.json()["detail"]
    assert "X-Request-ID" in refused.headers
    allowed = api.request("OPTIONS", EXPLAIN, headers={**asks, "Origin": ORIGIN})
    assert allowed.status_code == 200


@pytest.mark.parametrize(
    ("method", "path", "allowed"),
    [
        ("GET", EXPLAIN, "POST"),
        ("PUT", PREDICT, "POST"),
        ("HEAD", EXPLAIN, "POST"),
        ("OPTIONS", EXPLAIN, "POST"),
        ("POST", "/api/v1/models", "GET"),
        ("DELETE", "/livez", "GET"),
        ("BREW", "/readyz", "GET"),
    ],
)
def test_a_wrong_method_is_405_and_says_which_is_right(
    api: Api, method: str, path: str, allowed: str
) -> None:
    response = api.request(method, path)
    assert (response.status_code, response.headers["Allow"]) == (405, allowed)


@pytest.mark.parametrize(
    "path", ["/nowhere", "/api/v1/explain/", "/api/v2/explain", "/api/v1/models/x/y", "//livez"]
)
def test_an_unknown_path_is_404_and_never_a_redirect(api: Api, path: str) -> None:
    for method in ("GET", "POST"):
        response = api.request(method, f"http://test{path}")
        assert (response.status_code, response.json()["code"]) == (404, "not_found")


@pytest.mark.parametrize("path", ["/livez", "/readyz", "/metrics", "/api/v1/models", "/", "/no"])
def test_head_is_get_without_the_body(api: Api, path: str) -> None:
    get, head, wire = api.get(path), api.request("HEAD", path), Wire(path=path, method="HEAD")
    wire.body(b"")
    asyncio.run(wire.call(api.asgi))
    assert wire.answer == b"", "the client in these tests would drop it by itself"
    assert head.status_code == get.status_code
    assert head.headers["Content-Type"] == get.headers["Content-Type"]
    assert api.counted()[0] == api.counted()[1]


def test_an_unexpected_exception_is_a_500_that_tells_the_log_alone(
    api: Api, caplog: pytest.LogCaptureFixture
) -> None:
    response = fail(api, RuntimeError("secret"))
    assert (response.status_code, response.json()["code"]) == (500, "internal_error")
    assert "secret" not in response.text
    assert any(record.exc_info and "secret" in str(record.exc_info[1]) for record in caplog.records)


def test_the_cause_of_an_error_is_logged_and_not_sent(
    api: Api, caplog: pytest.LogCaptureFixture
) -> None:
    error = WorkerLost("It ended.", retry_after=7)
    error.__cause__ = OSError("secret")
    response = fail(api, error)
    assert (response.status_code, response.headers["Retry-After"]) == (503, "7")
    assert "secret" not in response.text
    assert "secret" in caplog.text


@pytest.mark.parametrize(
    ("error", "status", "retryable"),
    [
        (Overloaded("Many.", retry_after=2), 429, True),
        (PoisonInput("Bad."), 422, False),
        (NonFiniteOutput("Bad."), 500, False),
        (DeadlineExceeded("Late."), 504, True),
    ],
)
def test_what_the_engine_raises_is_what_the_client_reads(
    api: Api, error: CamserveError, status: int, retryable: bool
) -> None:
    problem = fail(api, error).json()
    assert (problem["status"], problem["code"], problem["detail"], problem["retryable"]) == (
        status, error.code, error.detail, retryable,
    )  # fmt: skip


def test_one_request_too_many_is_429_with_a_time_to_come_back() -> None:
    async def scenario() -> None:
        engine = FakeEngine(gate=asyncio.Event())
        api, first, second = make_api(engine=engine, max_queue=1), Wire(), Wire()
        for wire in (first, second):
            wire.body(PHOTO)
        call = asyncio.create_task(first.call(api.asgi))
        await asyncio.wait_for(engine.begun.wait(), 10)
        await second.call(api.asgi)
        assert second.status == 429
        assert int(second.answer_headers["retry-after"]) >= 1
        assert engine.gate is not None
        engine.gate.set()
        await asyncio.wait_for(call, 10)
        assert first.status == 200

    asyncio.run(scenario())


def test_requests_are_counted_by_route_and_never_by_path(api: Api) -> None:
    api.raw()
    api.get("/api/v1/models/colours")
    api.get("/api/v1/models/nonsense")
    for path in ("/a", "/b/c", "/d"):
        api.get(path)
    api.get(EXPLAIN)
    assert api.counted() == [
        (EXPLAIN, "200"),
        ("/api/v1/models/{name}", "200"),
        ("/api/v1/models/{name}", "404"),
        ("other", "404"),
        ("other", "404"),
        ("other", "404"),
        (EXPLAIN, "405"),
    ]


def test_requests_are_logged_but_probes_are_not(api: Api, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "app")
    api.get("/livez")
    assert caplog.text == ""
    api.raw(photo=PHOTO)
    assert f"POST {EXPLAIN} 200" in caplog.text
