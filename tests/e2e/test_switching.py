"""Models are loaded, replaced and unloaded while others are being served."""

import os
import signal
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from threading import Event

import httpx
import pytest

from tests.pictures import make_upload
from tests.server import TEST_MODELS, Server, serving, wait_for

TOKEN = "the-operator"
CLIENTS = 4
SWITCHES = 10
MANY_SWITCHES = 100


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    folder = tmp_path / "models"
    folder.mkdir()
    for name in ("tiny", "switched", "extra"):
        write(folder, name)
    return folder


def write(folder: Path, name: str, seed: int = 0, architecture: str = "") -> None:
    """The tiny model under a name of its own, with other weights for each seed."""
    manifest = (TEST_MODELS / "tiny.toml").read_text().replace('"tiny"', f'"{name}"')
    if architecture:
        manifest = manifest.replace("shufflenet_v2_x0_5", architecture)
    file = folder / f"{name}.toml"
    new = file.with_suffix(".new")
    new.write_text(f"seed = {seed}\n{manifest}")
    new.rename(file)  # nobody reads half of it


@contextmanager
def managed(folder: Path, *flags: str) -> Iterator[Server]:
    with serving(
        folder.parent / "log",
        *("--models", "tiny,switched", *flags),
        APP_MODELS_DIR=str(folder),
        APP_ADMIN_TOKEN=TOKEN,
    ) as server:
        yield server.wait_until_ready()


def manage(server: Server, action: str, name: str) -> httpx.Response:
    url = f"{server.url}/v2/repository/models/{name}/{action}"
    return httpx.post(url, headers={"X-API-Key": TOKEN}, timeout=120)


def index(server: Server) -> dict[str, tuple[str, str]]:
    """State and reason of each model."""
    url = f"{server.url}/v2/repository/index"
    entries = httpx.post(url, headers={"X-API-Key": TOKEN}, timeout=60).json()
    return {entry["name"]: (entry["state"], entry["reason"]) for entry in entries}


def ask(server: Server, model: str) -> httpx.Response:
    url = f"{server.url}/api/v1/explain?model={model}"
    return httpx.post(url, content=make_upload(), timeout=120)


def version(server: Server, model: str) -> str | None:
    found: str | None = server.client.get(f"/api/v1/models/{model}").json()["version"]
    return found


@contextmanager
def load_on(server: Server, *models: str) -> Iterator["Counter[tuple[str, int]]"]:
    """Clients that ask for these models without a pause; model and status of every answer."""
    answers: Counter[tuple[str, int]] = Counter()
    enough = Event()

    def client(number: int) -> list[tuple[str, int]]:
        model, found = models[number % len(models)], []
        while not enough.is_set():
            found.append((model, ask(server, model).status_code))
        return found

    with ThreadPoolExecutor(CLIENTS) as pool:
        clients = [pool.submit(client, number) for number in range(CLIENTS)]
        try:
            yield answers
        finally:
            enough.set()
            for ended in clients:
                answers.update(ended.result())


@pytest.mark.parametrize("times", [SWITCHES, pytest.param(MANY_SWITCHES, marks=pytest.mark.slow)])
def test_no_request_fails_while_models_are_replaced_loaded_and_unloaded(
    folder: Path, times: int
) -> None:
    with managed(folder) as server:
        versions = {version(server, "switched")}
        with load_on(server, "tiny", "switched") as answers:
            for seed in range(1, times + 1):
                write(folder, "switched", seed)
                for action, name in (("load", "switched"), ("load", "extra"), ("unload", "extra")):
                    assert manage(server, action, name).json() == {"name": name, action: True}
                versions.add(version(server, "switched"))
        assert {status for _, status in answers} == {200}
        assert {model for model, _ in answers} == {"tiny", "switched"}
        assert len(versions) == times + 1
        assert index(server)["extra"] == ("UNAVAILABLE", "unloaded")
        wait_for(lambda: server.log().count("is gone") == 2 * times)


def test_two_workers_switch_and_no_request_fails(folder: Path) -> None:
    with managed(folder, "--devices", "cpu,cpu") as server:
        with load_on(server, "switched") as answers:
            for seed in range(1, 4):
                write(folder, "switched", seed)
                assert manage(server, "load", "switched").status_code == 200
        assert {status for _, status in answers} == {200}


def test_a_bad_version_is_refused_with_its_reason_and_the_old_one_serves_on(folder: Path) -> None:
    with managed(folder) as server:
        before = version(server, "switched")
        write(folder, "switched", architecture="resnet9000")
        with load_on(server, "switched") as answers:
            refused = manage(server, "load", "switched")
        assert (refused.status_code, "resnet9000" in refused.json()["error"]) == (422, True)
        assert version(server, "switched") == before
        assert {status for _, status in answers} == {200}
        state, reason = index(server)["switched"]
        assert (state, "resnet9000" in reason) == ("READY", True)
        assert manage(server, "load", "nobody").status_code == 404


def test_a_worker_that_is_started_again_has_what_was_loaded_and_not_what_was_unloaded(
    folder: Path,
) -> None:
    with managed(folder) as server:
        write(folder, "extra", seed=5)
        assert manage(server, "load", "extra").status_code == 200
        assert manage(server, "unload", "switched").status_code == 200
        loaded = version(server, "extra")
        assert ask(server, "switched").status_code == 404
        assert server.is_ready(), "nobody misses what was unloaded on purpose"
        write(folder, "extra", seed=6)  # not asked for yet
        (worker,) = server.children("worker")
        os.kill(worker, signal.SIGKILL)
        wait_for(lambda: "hung up" in server.log())  # until then, its catalogue is believed
        assert wait_for(lambda: (index(server) or {}).get("extra", ("", ""))[0] == "READY")
        assert version(server, "extra") == loaded
        assert index(server)["switched"] == ("UNAVAILABLE", "unloaded")
        assert TOKEN not in server.log()


def test_sighup_follows_the_models_folder(folder: Path) -> None:
    with managed(folder) as server:
        before = {name: version(server, name) for name in ("tiny", "switched")}
        write(folder, "switched", seed=1)
        write(folder, "new")
        (folder / "extra.toml").unlink()
        with load_on(server, "tiny", "switched") as answers:
            server.process.send_signal(signal.SIGHUP)
            wait_for(lambda: "was read again" in server.log())
            wait_for(lambda: version(server, "switched") != before["switched"])
        assert {status for _, status in answers} == {200}
        assert version(server, "tiny") == before["tiny"]
        assert set(index(server)) == {"tiny", "switched", "new"}
        assert index(server)["new"] == ("UNAVAILABLE", "unloaded")
        assert manage(server, "load", "new").status_code == 200
        assert ask(server, "new").status_code == 200


def test_sighup_with_a_broken_manifest_changes_nothing_and_is_one_line_in_the_log(
    folder: Path,
) -> None:
    with managed(folder) as server:
        before = version(server, "switched")
        write(folder, "switched", seed=1)
        (folder / "broken.toml").write_text("name = ")
        logged = len(server.log().splitlines())
        server.process.send_signal(signal.SIGHUP)
        wait_for(lambda: "broken.toml" in server.log())
        time.sleep(0.5)  # for what must not come
        lines = [line for line in server.log().splitlines()[logged:] if "GET" not in line]
        assert len(lines) == 1
        assert version(server, "switched") == before
        assert manage(server, "load", "switched").status_code == 422
        os.kill(server.children("worker")[0], signal.SIGKILL)  # its successor reads no folder
        assert wait_for(server.is_ready)
        assert version(server, "switched") == before
