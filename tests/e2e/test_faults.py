"""Dying processes, signals and bad set-ups: every request is answered, every end is clean."""

import os
import re
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path

import httpx
import pytest
from PIL import Image

from tests.pictures import encode, make_upload
from tests.server import ROOT, TEST_MODELS, Server, serving, wait_for


def post(server: Server, **options: object) -> httpx.Response:
    query = {name: str(value) for name, value in options.items()}
    url = f"{server.url}/api/v1/explain"
    return httpx.post(url, content=make_upload(), params=query, timeout=120)


def in_flight(server: Server) -> float:
    return server.metric("camserve_in_flight")


def test_requests_of_a_killed_worker_are_answered_after_its_restart(tmp_path: Path) -> None:
    with serving(tmp_path / "log") as server, ThreadPoolExecutor(16) as pool:
        server.wait_until_ready()
        (worker,) = server.children("worker")
        os.kill(worker, signal.SIGSTOP)  # so that all are in flight when it dies
        requests = [pool.submit(post, server) for _ in range(16)]
        wait_for(lambda: in_flight(server) == 16)
        os.kill(worker, signal.SIGKILL)
        wait_for(lambda: not server.is_ready())
        assert "worker" in server.client.get("/readyz").text
        assert server.metric("camserve_model_ready") == 0
        statuses = [request.result().status_code for request in requests]
        assert statuses == [200] * 16
        assert server.is_ready()


def test_once_its_models_are_loaded_a_server_has_a_spare_http_process(tmp_path: Path) -> None:
    with serving(tmp_path / "log") as server:
        server.wait_until_ready()
        wait_for(lambda: len(server.children("http")) == 2)


@pytest.fixture(scope="module")
def impatient(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server with a deadline of five seconds."""
    with serving(tmp_path_factory.mktemp("impatient") / "log", APP_DEADLINE_S="5") as server:
        yield server.wait_until_ready()


def test_a_worker_that_hangs_costs_its_callers_no_more_than_their_deadline(
    impatient: Server,
) -> None:
    (worker,) = impatient.children("worker")
    os.kill(worker, signal.SIGSTOP)
    assert post(impatient, deadline_ms=300).status_code == 504
    os.kill(worker, signal.SIGCONT)
    assert post(impatient).status_code == 200


def test_requests_whose_worker_does_not_come_back_in_time_get_503(impatient: Server) -> None:
    (worker,) = impatient.children("worker")
    os.kill(worker, signal.SIGSTOP)
    with ThreadPoolExecutor(4) as pool:
        requests = [pool.submit(post, impatient) for _ in range(4)]
        wait_for(lambda: in_flight(impatient) == 4)
        os.kill(worker, signal.SIGKILL)
        (successor,) = wait_for(lambda: set(impatient.children("worker")) - {worker})
        os.kill(successor, signal.SIGSTOP)
        responses = [request.result() for request in requests]
    os.kill(successor, signal.SIGCONT)
    for response in responses:
        assert (response.status_code, response.json()["code"]) == (503, "worker_lost")
        assert int(response.headers["Retry-After"]) >= 1


@pytest.mark.parametrize("accept", ["application/json", "text/event-stream"])
def test_what_takes_longer_than_the_grace_is_told_to_ask_again(tmp_path: Path, accept: str) -> None:
    with (
        serving(tmp_path / "log", "--grace-s", "1", "--drain-delay-s", "0") as server,
        ThreadPoolExecutor(1) as pool,
    ):
        server.wait_until_ready()
        (worker,) = server.children("worker")
        os.kill(worker, signal.SIGSTOP)
        url, headers = f"{server.url}/api/v1/explain", {"Accept": accept}
        late = pool.submit(httpx.post, url, content=make_upload(), headers=headers, timeout=120)
        wait_for(lambda: in_flight(server) == 1)
        server.process.send_signal(signal.SIGTERM)
        response = late.result()
        os.kill(worker, signal.SIGCONT)
        assert '"code": "draining"' in response.text
        assert response.status_code == (503 if accept == "application/json" else 200)
        assert server.process.wait(60) == 0
        assert "Traceback" not in server.log()


def test_a_worker_that_hangs_is_replaced(tmp_path: Path) -> None:
    with serving(tmp_path / "log", APP_HANG_S="2") as server:
        server.wait_until_ready()
        (worker,) = server.children("worker")
        os.kill(worker, signal.SIGSTOP)
        assert post(server).status_code == 200  # from its successor
        assert server.children("worker") != [worker]


STICKY = """
import time
from torch import nn

class Sticky(nn.Module):
    def __init__(self):
        super().__init__()
        self.net = nn.Sequential(nn.Conv2d(3, 4, 3, 8), nn.AdaptiveAvgPool2d(1), nn.Flatten())

    def forward(self, x):
        if x.shape[0] == 1 and float(x.min()) > 2:  # a white picture
            time.sleep(600)
        return self.net(x)

def make(num_classes):
    return Sticky()
"""
STICKY_MANIFEST = """name = "sticky"
family = "factory"
architecture = "sticky.py:make"
num_classes = 4
weights = "random"
layer = "net.0"
preprocess = { resize = 64, crop = 64 }
"""


def test_a_worker_with_a_batch_that_never_ends_is_replaced_while_others_are_answered(
    tmp_path: Path,
) -> None:
    (tmp_path / "sticky.py").write_text(STICKY)
    (tmp_path / "sticky.toml").write_text(STICKY_MANIFEST)
    (tmp_path / "tiny.toml").write_text((TEST_MODELS / "tiny.toml").read_text())
    environment = {"APP_MODELS_DIR": str(tmp_path), "APP_MODELS": "tiny,sticky"}
    white = encode(Image.new("RGB", (64, 64), "white"))
    with (
        serving(
            tmp_path / "log", APP_HANG_S="3", APP_ALLOW_FACTORIES="true", **environment
        ) as server,
        ThreadPoolExecutor(1) as pool,
    ):
        server.wait_until_ready()
        (worker,) = server.children("worker")
        url = f"{server.url}/api/v1/predict?model=sticky&deadline_ms=60000"
        stuck = pool.submit(httpx.post, url, content=white, timeout=120)
        while server.children("worker") == [worker]:
            assert post(server).status_code == 200
        assert stuck.result().json()["code"] in {"poison_input", "worker_lost"}


def test_requests_that_come_while_other_models_are_loaded_are_answered(tmp_path: Path) -> None:
    with (
        serving(tmp_path / "log", "--models", "tiny,wide,wide2,wide3", **many(tmp_path)) as server,
        ThreadPoolExecutor(2) as pool,
    ):
        wait_for(lambda: "tiny" not in missing(server) and len(missing(server)) < 4)
        statuses = set()
        while not server.is_ready():
            statuses |= {r.status_code for r in pool.map(lambda _: post(server), range(4))}
        assert statuses <= {200}


def many(folder: Path) -> dict[str, str]:
    """A models folder with copies of the wide model."""
    models = folder / "models"
    models.mkdir()
    for name in ("tiny", "wide"):
        (models / f"{name}.toml").write_text((TEST_MODELS / f"{name}.toml").read_text())
    for name in ("wide2", "wide3"):
        copy = (TEST_MODELS / "wide.toml").read_text().replace('"wide"', f'"{name}"')
        (models / f"{name}.toml").write_text(copy)
    return {"APP_MODELS_DIR": str(models)}


def test_two_workers_share_the_work_and_stand_in_for_each_other(tmp_path: Path) -> None:
    with (
        serving(tmp_path / "log", "--devices", "cpu,cpu") as server,
        ThreadPoolExecutor(8) as pool,
    ):
        server.wait_until_ready()
        wait_for(lambda: server.metric("camserve_model_ready") == 2)
        workers = server.children("worker")
        for worker in workers:
            os.kill(worker, signal.SIGSTOP)
        requests = [pool.submit(post, server) for _ in range(8)]
        wait_for(lambda: in_flight(server) == 8)
        os.kill(workers[1], signal.SIGCONT)
        wait_for(lambda: in_flight(server) == 4)  # the other four were given to the first one
        os.kill(workers[0], signal.SIGKILL)
        assert [request.result().status_code for request in requests] == [200] * 8


def test_sigterm_lets_requests_in_flight_finish(tmp_path: Path) -> None:
    with (
        serving(tmp_path / "log", APP_DRAIN_DELAY_S="5") as server,
        ThreadPoolExecutor(4) as pool,
    ):
        server.wait_until_ready()
        (worker,) = server.children("worker")
        os.kill(worker, signal.SIGSTOP)
        requests = [pool.submit(post, server) for _ in range(4)]
        wait_for(lambda: in_flight(server) == 4)
        for pid in [server.process.pid, server.http_process(), worker]:
            os.kill(pid, signal.SIGTERM)  # as to a whole group: only the parent heeds it
        wait_for(lambda: server.client.get("/readyz").json()["status"] == "draining")
        wait_for(lambda: refuses(server.url))  # nobody is left waiting at a closed door
        os.kill(worker, signal.SIGCONT)
        assert [request.result().status_code for request in requests] == [200] * 4
        assert server.process.wait(60) == 0


def test_an_http_process_that_dies_while_draining_has_a_successor_that_drains(
    tmp_path: Path,
) -> None:
    with serving(tmp_path / "log", APP_DRAIN_DELAY_S="3600") as server:
        server.wait_until_ready()
        server.process.send_signal(signal.SIGTERM)
        wait_for(lambda: server.client.get("/readyz").json()["status"] == "draining")
        os.kill(server.http_process(), signal.SIGKILL)
        readyz = httpx.get(f"{server.url}/readyz", timeout=60)
        assert (readyz.status_code, readyz.json()["status"]) == (503, "draining")
        assert post(server).status_code == 200
        assert server.stop(signal.SIGTERM) == 0


def refuses(url: str) -> bool:
    """Whether nothing listens there any more."""
    address = httpx.URL(url)
    try:
        with socket.create_connection((address.host, address.port or 0), timeout=10):
            return False
    except ConnectionRefusedError:
        return True


def test_connections_that_wait_for_an_http_process_that_dies_wait_for_its_successor(
    tmp_path: Path,
) -> None:
    with serving(tmp_path / "log", APP_HTTP_PROCESSES="3") as server:
        server.wait_until_ready()
        wait_for(lambda: len(http_processes(server)) == 3)
        (spare,) = wait_for(lambda: http_processes(server, serve=False))
        first, *others = http_processes(server)
        os.kill(first, signal.SIGSTOP)  # so that its share of the connections waits
        with ExitStack() as stack:
            address = server.client.base_url.host, server.client.base_url.port
            clients = [stack.enter_context(socket.create_connection(address)) for _ in range(30)]
            os.kill(first, signal.SIGKILL)
            for client in clients:
                client.settimeout(60)
                client.sendall(b"GET /livez HTTP/1.1\r\nHost: localhost\r\n\r\n")
            assert all(client.recv(15) == b"HTTP/1.1 200 OK" for client in clients)
        wait_for(lambda: set(http_processes(server)) == {*others, spare})


def test_an_http_process_that_hangs_is_replaced(tmp_path: Path) -> None:
    with serving(tmp_path / "log", APP_HTTP_PROCESSES="2", APP_HANG_S="2") as server:
        server.wait_until_ready()
        wait_for(lambda: len(http_processes(server)) == 2)
        hanging, other = http_processes(server)
        os.kill(hanging, signal.SIGSTOP)
        for _ in range(30):  # about half of them are dealt to the one that hangs
            assert httpx.get(f"{server.url}/livez", timeout=60).status_code == 200
        assert hanging not in http_processes(server)
        assert other in http_processes(server)


def http_processes(server: Server, *, serve: bool = True) -> list[int]:
    """Those that serve, or those that wait for a place."""
    begun = re.findall(r"Started server process \[(\d+)\]", server.log())
    return [pid for pid in server.children("http") if (str(pid) in begun) is serve]


def test_a_second_signal_ends_it_at_once(tmp_path: Path) -> None:
    with serving(tmp_path / "log", APP_DRAIN_DELAY_S="3600") as server:
        server.wait_until_ready()
        server.process.send_signal(signal.SIGTERM)
        wait_for(lambda: server.client.get("/readyz").json()["status"] == "draining")
        assert server.stop(signal.SIGTERM) == 0


def test_no_child_outlives_a_killed_parent(tmp_path: Path) -> None:
    with serving(tmp_path / "log") as server:
        server.wait_until_ready()
        children = server.children("http") + server.children("worker")
        server.process.kill()
        server.process.wait()
        for pid in children:
            wait_for(lambda pid=pid: has_ended(pid))  # type: ignore[misc]


def has_ended(pid: int) -> bool:
    """Gone, or waiting for somebody to ask how it ended."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except (FileNotFoundError, ProcessLookupError):
        return True


def test_a_model_that_cannot_be_had_is_named_and_the_others_serve(tmp_path: Path) -> None:
    broken = (ROOT / "tests/models/tiny.toml").read_text().replace('"random"', '"gone.safetensors"')
    models = tmp_path / "models"
    models.mkdir()
    (models / "gone.toml").write_text(
        broken.replace('"tiny"', '"gone"').replace(
            "[preprocess]", f'sha256 = "{"0" * 64}"\n[preprocess]'
        )
    )
    (models / "tiny.toml").write_text((ROOT / "tests/models/tiny.toml").read_text())
    with serving(
        tmp_path / "log", "--models", "tiny,gone,nobody", APP_MODELS_DIR=str(models)
    ) as server:
        wait_for(lambda: set(missing(server)) == {"gone", "nobody"})
        wait_for(lambda: missing(server)["gone"] != "loading")
        assert "gone.safetensors" in missing(server)["gone"]
        assert "no manifest" in missing(server)["nobody"]
        assert post(server).status_code == 200
        refused = server.client.post("/api/v1/explain?model=gone", content=make_upload())
        assert (refused.status_code, refused.json()["code"]) == (503, "model_failed")


def missing(server: Server) -> dict[str, str]:
    found: dict[str, str] = server.client.get("/readyz").json().get("missing", {})
    return found


def run_app(*arguments: str, **environment: str) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        [sys.executable, "-m", "app", *arguments],
        cwd=ROOT,
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def assert_one_line(ended: "subprocess.CompletedProcess[str]", *words: str) -> None:
    assert ended.returncode == 2
    assert len(ended.stderr.splitlines()) == 1
    for word in words:
        assert word in ended.stderr


def test_a_taken_port_ends_the_start_with_one_line_that_names_it() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        assert_one_line(run_app("serve", "--port", str(port)), f"127.0.0.1:{port}")


@pytest.mark.parametrize(
    ("variable", "value"),
    [("APP_PORT", "http"), ("APP_MODELS_DIR", "/nowhere"), ("APP_API_KEYS_FILE", "/nowhere")],
)
def test_a_bad_setting_ends_the_start_with_one_line_that_names_it(
    variable: str, value: str
) -> None:
    assert_one_line(run_app("serve", "--port", "0", **{variable: value}) if variable != "APP_PORT"
                    else run_app("serve", **{variable: value}), variable)  # fmt: skip


def test_a_broken_manifest_ends_the_start_with_one_line_that_names_file_and_key(
    tmp_path: Path,
) -> None:
    (tmp_path / "m.toml").write_text('name = "a.b"\nfamily = "torchvision"\n')
    ended = run_app("serve", "--port", "0", APP_MODELS_DIR=str(tmp_path))
    assert_one_line(ended, "m.toml", "name:", "architecture:")
