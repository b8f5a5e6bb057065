"""Probes for load balancers, and the metrics page."""

import pytest

from app.api.schemas import Readiness
from tests.api.client import Api, make_api
from tests.fakes import FakeEngine


def test_livez_is_alive_whatever_the_workers_do() -> None:
    response = make_api(engine=FakeEngine(known=[])).get("/livez")
    assert (response.status_code, response.json()) == (200, {"status": "alive"})


def test_readyz_is_ready_when_every_start_model_is_served(api: Api) -> None:
    response = api.get("/readyz")
    assert (response.status_code, response.json()) == (200, {"status": "ready"})


def test_readyz_names_the_models_that_are_missing_and_why() -> None:
    api = make_api(start_models=["colours", "late", "broken", "shelved"])
    response = api.get("/readyz")
    assert response.status_code == 503
    assert Readiness.model_validate(response.json()).missing == {
        "late": "loading",
        "broken": "head(features(x)) is not model(x)",
    }


def test_readyz_is_not_ready_before_a_worker_has_said_anything() -> None:
    response = make_api(engine=FakeEngine(known=[])).get("/readyz")
    assert response.status_code == 503
    assert response.json()["missing"] == {"colours": "no worker is up"}


def test_readyz_refuses_while_draining_and_requests_are_still_answered(api: Api) -> None:
    api.state["draining"] = True
    response = api.get("/readyz")
    assert (response.status_code, response.json()) == (503, {"status": "draining"})
    assert api.get("/livez").status_code == 200
    answer = api.raw()
    assert (answer.status_code, answer.headers["Connection"]) == (200, "close")


def test_the_metrics_page_is_prometheus_text(api: Api) -> None:
    response = api.get("/metrics")
    assert response.text == "# all well\n"
    assert response.headers["Content-Type"] == "text/plain; version=0.0.4; charset=utf-8"


@pytest.mark.parametrize("path", ["/livez", "/readyz", "/metrics"])
def test_no_probe_is_ever_cached(api: Api, path: str) -> None:
    assert api.get(path).headers["Cache-Control"] == "no-store"
    api.state["draining"] = True
    assert api.get(path).headers["Cache-Control"] == "no-store"
