"""The shipped nginx configuration, from Debian's nginx, before two real servers."""

import os
import re
import shutil
import signal
import socket
import subprocess
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path

import httpx
import pytest

from app.api.schemas import Problem
from tests.pictures import make_upload
from tests.server import ROOT, Server, serving, wait_for

pytestmark = pytest.mark.e2e


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port: int = probe.getsockname()[1]
        return port


def configure(folder: Path, port: int, servers: list[Server]) -> Path:
    """The shipped files, with this test's addresses and paths put in."""
    upstream = (ROOT / "deploy/upstream.conf").read_text()
    for number, server in enumerate(servers, start=1):
        upstream = upstream.replace(f"camserve-{number}:8000", server.url.removeprefix("http://"))
    assert "camserve-" not in re.sub(r"#.*", "", upstream)
    (folder / "upstream.conf").write_text(upstream)
    main = (ROOT / "deploy/nginx.conf").read_text()
    main = main.replace("listen 8080", f"listen 127.0.0.1:{port}").replace("/tmp/", f"{folder}/")
    main = main.replace("/dev/stdout", str(folder / "access.log"))
    (folder / "nginx.conf").write_text(main)
    return folder / "nginx.conf"


@pytest.fixture(scope="module")
def servers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[list[Server]]:
    folder = tmp_path_factory.mktemp("servers")
    with ExitStack() as stack:
        running = [
            stack.enter_context(serving(folder / name, APP_DRAIN_DELAY_S="3"))
            for name in ("one", "two")
        ]
        yield [server.wait_until_ready() for server in running]


@pytest.fixture(scope="module")
def proxy(servers: list[Server], tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    # In the path of an ordinary user, nginx may be missing.
    program = shutil.which("nginx", path=f"{os.environ['PATH']}:/usr/sbin")
    assert program, "nginx is not installed: scripts/test --e2e installs it"
    folder, port = tmp_path_factory.mktemp("nginx"), free_port()
    # As root, nginx would hand its work to a user who may not enter this test's folder.
    globals_ = "daemon off;" + (" user root;" if os.geteuid() == 0 else "")
    configuration = str(configure(folder, port, servers))
    process = subprocess.Popen([program, "-e", "stderr", "-c", configuration, "-g", globals_])
    url = f"http://127.0.0.1:{port}"
    try:
        wait_for(lambda: answers(f"{url}/nginx-health"))
        yield url
    finally:
        process.send_signal(signal.SIGQUIT)
        process.wait(30)


def answers(url: str) -> bool:
    try:
        return httpx.get(url).status_code == 200
    except httpx.TransportError:
        return False


def post(url: str, upload: bytes) -> httpx.Response:
    return httpx.post(f"{url}/api/v1/explain", content=upload, timeout=60)


def test_an_upload_through_the_proxy_is_answered_with_its_request_id(proxy: str) -> None:
    response = httpx.post(
        f"{proxy}/api/v1/explain",
        files={"image": make_upload()},
        headers={"X-Request-ID": "from-the-caller", "Origin": "http://elsewhere"},
        timeout=60,
    )
    assert response.status_code == 200
    assert response.headers["X-Request-ID"] == "from-the-caller"
    assert response.headers["Access-Control-Allow-Origin"] == "*"


def test_both_servers_share_the_requests(proxy: str, servers: list[Server]) -> None:
    before = [server.metric("camserve_batch_rows_sum") for server in servers]
    with ThreadPoolExecutor(8) as pool:
        statuses = [
            r.status_code for r in pool.map(lambda _: post(proxy, make_upload()), range(24))
        ]
    assert statuses == [200] * 24
    after = [server.metric("camserve_batch_rows_sum") for server in servers]
    assert sum(after) - sum(before) == 24
    assert all(now > then for now, then in zip(after, before, strict=True))


def test_a_picture_of_many_megabytes_passes_and_one_above_the_limit_gets_a_problem(
    proxy: str,
) -> None:
    padded = make_upload() + b"\0" * 15_000_000  # what follows a JPEG's end does not count
    assert post(proxy, padded).status_code == 200
    refused = post(proxy, padded + padded)
    assert refused.status_code == 413
    assert refused.headers["Content-Type"] == "application/problem+json"
    problem = Problem.model_validate(refused.json())
    assert (problem.status, problem.retryable) == (413, False)
    assert problem.request_id == refused.headers["X-Request-ID"]


def test_a_server_that_drains_and_ends_loses_no_request(proxy: str, servers: list[Server]) -> None:
    stopped = servers[0].process
    stopped.send_signal(signal.SIGTERM)
    statuses = []
    with ThreadPoolExecutor(3) as pool:
        while stopped.poll() is None:
            answers = pool.map(lambda _: post(proxy, make_upload()), range(3))
            statuses += [response.status_code for response in answers]
    statuses += [post(proxy, make_upload()).status_code for _ in range(5)]
    assert stopped.returncode == 0
    assert set(statuses) == {200}
