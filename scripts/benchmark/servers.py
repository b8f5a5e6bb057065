"""Start a server as its users would, wait until it answers, and end all of its processes."""

import json
import os
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from http.client import HTTPConnection, HTTPException
from pathlib import Path
from urllib.request import urlopen

from benchmark import processes
from benchmark.contenders import Contender
from benchmark.places import LOGS, ROOT

_START_S = 180
_COMPILED_S = 600
_BUSY = 0.1  # of a core: somebody still starts
_IDLE_S = 30  # at most; some servers are never idle
_ANSWER_S = 60
_OK = 200


class ServerFailed(Exception):
    """It ended, or did not answer in time; the message has the last line of its log."""


@dataclass(frozen=True, slots=True)
class Server:
    """One that runs."""

    contender: Contender
    pid: int
    port: int
    started_s: float

    def post(self, what: str, body: bytes) -> tuple[int, bytes]:
        """Status and body; for checks, not for measurements."""
        return _post(self.port, self.contender.paths[what], body)


@contextmanager
def serving(
    contender: Contender,
    model: str,
    what: str,
    picture: bytes,
    environment: Mapping[str, str] | None = None,
    *,
    settled: bool = True,
) -> Iterator[Server]:
    """A server that has answered once; ended afterwards, with all that it started.

    Args:
        contender: who it is.
        model: that it serves.
        what: it is asked first.
        picture: with which.
        environment: beside this process's.
        settled: all of its processes have started, and camserve has compiled what it wants to:
            measured is what is reached in a minute.

    Raises:
        ServerFailed: it cannot be had.
    """
    LOGS.mkdir(parents=True, exist_ok=True)
    log, port = LOGS / f"{contender.name}-{model}.log", _free_port()
    began = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="bench-", ignore_cleanup_errors=True) as temporary:
        own = contender.environment_for(model, port, what, temporary) if contender.is_peer else {}
        process = _start(contender.command_for(model, port), {**own, **(environment or {})}, log)
        try:
            _wait_until_ready(process, port, contender.paths[what], picture, log)
            started_s = time.monotonic() - began
            if settled and not contender.is_peer:
                _wait_until_compiled(process, port, model)
            if settled:
                wait_until_idle(process.pid)
            yield Server(contender, process.pid, port, started_s)
        finally:
            processes.end(process.pid)


def _start(
    command: list[str], environment: Mapping[str, str], log: Path
) -> "subprocess.Popen[bytes]":
    with log.open("w") as output:
        return subprocess.Popen(
            command,
            cwd=ROOT,
            env={**_plain_environment(), **environment},
            stdout=output,
            stderr=subprocess.STDOUT,
            stdin=subprocess.DEVNULL,
            start_new_session=True,  # a Ctrl-C is this program's, which then ends the server
        )


def _plain_environment() -> dict[str, str]:
    """This process's, without settings of camserve: it is measured with its defaults."""
    return {name: value for name, value in os.environ.items() if not name.startswith("APP_")}


def _wait_until_ready(
    process: "subprocess.Popen[bytes]", port: int, path: str, picture: bytes, log: Path
) -> None:
    deadline = time.monotonic() + _START_S
    while time.monotonic() < deadline and process.poll() is None:
        try:
            if _post(port, path, picture)[0] == _OK:
                return
        except (OSError, HTTPException):
            pass
        time.sleep(0.25)
    last = (log.read_text().strip().splitlines() or ["nothing"])[-1]
    # Results are published: no folders of this machine in them.
    raise ServerFailed(f"no answer; .bench/logs/{log.name} ends: {last.replace(str(ROOT), '.')}")


def _wait_until_compiled(process: "subprocess.Popen[bytes]", port: int, model: str) -> None:
    deadline = time.monotonic() + _COMPILED_S
    while time.monotonic() < deadline and process.poll() is None:
        with urlopen(f"http://127.0.0.1:{port}/api/v1/models/{model}", timeout=_ANSWER_S) as answer:
            if json.load(answer)["compile"]["state"] != "running":
                return
        time.sleep(0.25)
    raise ServerFailed(f"{model} is still being compiled")


def wait_until_idle(pid: int) -> None:
    """One process answers, others may still import: clients would stay with the one for good."""
    deadline = time.monotonic() + _IDLE_S
    while time.monotonic() < deadline:
        before = processes.core_seconds(processes.tree(pid))
        time.sleep(1)
        after = processes.core_seconds(processes.tree(pid))
        if sum(used - before.get(one, 0.0) for one, used in after.items()) < _BUSY:
            return


def _post(port: int, path: str, body: bytes) -> tuple[int, bytes]:
    connection = HTTPConnection("127.0.0.1", port, timeout=_ANSWER_S)
    try:
        connection.request("POST", path, body, {"Content-Type": "image/jpeg"})
        answer = connection.getresponse()
        return answer.status, answer.read()
    finally:
        connection.close()


def _free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port: int = listener.getsockname()[1]
        return port
