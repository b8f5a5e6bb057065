"""Loading and unloading models: for the operator alone."""

import pytest

from app.errors import CamserveError, LoadFailed, NoWorker, UnknownModel
from app.types import Action
from tests.api.client import Api, make_api

TOKEN = "the-operator"
BEARER = {"Authorization": f"Bearer {TOKEN}"}
INDEX, LOAD, UNLOAD = (
    f"/v2/repository/{end}" for end in ("index", "models/shelved/load", "models/colours/unload")
)


class Manager:
    """Remembers what it was told, and fails if it shall."""

    def __init__(self) -> None:
        self.told: list[tuple[Action, str]] = []
        self.error: CamserveError | None = None

    async def __call__(self, action: Action, model: str) -> None:
        self.told.append((action, model))
        if self.error:
            raise self.error


@pytest.fixture
def manager() -> Manager:
    return Manager()


@pytest.fixture
def api(manager: Manager) -> Api:
    return make_api(admin_token=TOKEN, keys=["a-user"], manage=manager)


@pytest.mark.parametrize("path", [INDEX, LOAD, UNLOAD])
def test_without_a_token_of_the_server_nobody_may(path: str) -> None:
    response = make_api().request("POST", path, headers=BEARER)
    assert response.status_code == 403
    assert "APP_ADMIN_TOKEN" in response.json()["error"]


@pytest.mark.parametrize("path", [INDEX, LOAD, UNLOAD])
@pytest.mark.parametrize(
    "headers",
    [{}, {"Authorization": "Bearer a-user"}, {"X-API-Key": TOKEN + "x"}, {"X-API-Key": ""}],
)
def test_without_the_token_or_with_a_users_key_it_is_401(
    api: Api, manager: Manager, path: str, headers: dict[str, str]
) -> None:
    response = api.request("POST", path, headers=headers)
    assert (response.status_code, set(response.json())) == (401, {"error"})
    assert response.headers["WWW-Authenticate"] == "Bearer"
    assert manager.told == []


def test_the_token_opens_no_other_door(api: Api) -> None:
    assert api.get("/api/v1/models", **BEARER).status_code == 401


@pytest.mark.parametrize("headers", [BEARER, {"X-API-Key": TOKEN}])
def test_a_model_is_loaded_and_unloaded(
    api: Api, manager: Manager, headers: dict[str, str]
) -> None:
    loaded = api.request("POST", LOAD, headers=headers)
    assert (loaded.status_code, loaded.json()) == (200, {"name": "shelved", "load": True})
    unloaded = api.request("POST", UNLOAD, headers=headers, json={"parameters": {}})
    assert (unloaded.status_code, unloaded.json()) == (200, {"name": "colours", "unload": True})
    assert manager.told == [("load", "shelved"), ("unload", "colours")]


@pytest.mark.parametrize(
    ("error", "status"),
    [
        (UnknownModel("There is none."), 404),
        (LoadFailed("finite: NaN"), 422),
        (NoWorker("None is up."), 503),
    ],
)
def test_why_a_model_cannot_be_loaded_is_said_in_the_dialects_own_shape(
    api: Api, manager: Manager, error: CamserveError, status: int
) -> None:
    manager.error = error
    response = api.request("POST", LOAD, headers=BEARER)
    assert (response.status_code, response.json()) == (status, {"error": error.detail})


def test_the_index_tells_every_models_state_and_why(api: Api) -> None:
    response = api.request("POST", INDEX, headers=BEARER)
    entries = {entry["name"]: entry for entry in response.json()}
    assert entries["colours"] == {
        "name": "colours", "version": "sha256:colours", "state": "READY", "reason": "",
    }  # fmt: skip
    assert {name: (e["state"], e["reason"]) for name, e in entries.items()} == {
        "colours": ("READY", ""),
        "twins": ("READY", ""),
        "late": ("LOADING", ""),
        "broken": ("UNAVAILABLE", "head(features(x)) is not model(x)"),
        "shelved": ("UNAVAILABLE", "unloaded"),
    }


def test_the_index_can_be_of_the_ready_models_alone(api: Api) -> None:
    response = api.request("POST", INDEX, headers=BEARER, json={"ready": True})
    assert [entry["name"] for entry in response.json()] == ["colours", "twins"]


@pytest.mark.parametrize("body", [b"{", b"[]", b'{"ready": 1}', b"\xff"])
def test_a_body_of_the_index_that_is_no_question_is_400(api: Api, body: bytes) -> None:
    response = api.request("POST", INDEX, headers=BEARER, content=body)
    assert (response.status_code, set(response.json())) == (400, {"error"})


def test_other_errors_at_these_paths_have_the_same_shape(api: Api) -> None:
    assert set(api.get(LOAD, **BEARER).json()) == {"error"}
    large = {"Junk": "x" * 40_000}
    assert set(api.request("POST", LOAD, headers=large).json()) == {"error"}
