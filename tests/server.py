"""A real server in processes of its own, for tests that need one."""

import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TypeVar

import httpx

T = TypeVar("T")

ROOT = Path(__file__).parent.parent
TEST_MODELS = ROOT / "tests" / "models"
_START_S = 120  # a busy machine with two cores


class Server:
    """A running ``camserve serve``; its URL, its processes, its log."""

    def __init__(self, process: "subprocess.Popen[str]", log: Path) -> None:
        self.process = process
        self.started = time.monotonic()
        self._log = log
        self.url = wait_for(self._url)
        self.client = httpx.Client(base_url=self.url, timeout=60)

    def log(self) -> str:
        return self._log.read_text()

    def _url(self) -> str | None:
        if self.process.poll() is not None:
            raise RuntimeError(f"the server ended:\n{self.log()}")
        found = re.search(r"camserve on (http://\S+)", self.log())
        return found and found[1]

    def wait_until_ready(self) -> "Server":
        wait_for(lambda: self.process.poll() is not None or self.is_ready())
        assert self.process.poll() is None, self.log()
        return self

    def is_ready(self) -> bool:
        try:
            return self.client.get("/readyz").status_code == 200
        except httpx.TransportError:
            return False

    def http_process(self) -> int:
        """The process id of the http process that serves; the pool keeps a spare one, too."""
        return int(re.findall(r"Started server process \[(\d+)\]", self.log())[-1])

    def children(self, role: str) -> list[int]:
        """The process ids of the http or worker processes."""
        own = f"child\0{role}\0".encode()
        return [pid for pid in child_pids(self.process.pid) if own in command_line(pid)]

    def metric(self, name: str) -> float:
        """The sum of a metric over its labels, unless the name has them already."""
        page = self.client.get("/metrics").text
        pattern = rf"^{re.escape(name)}(?:{{.*}})? (\S+)$"
        return sum(float(value) for value in re.findall(pattern, page, re.MULTILINE))

    def stop(self, number: signal.Signals = signal.SIGINT) -> int:
        self.client.close()
        if self.process.poll() is None:
            self.process.send_signal(number)
        return self.process.wait(60)


@contextmanager
def serving(log: Path, *flags: str, **environment: str) -> Iterator[Server]:
    """Run a server on a free port, with test models unless told otherwise; stop it at the end."""
    defaults = {"APP_MODELS_DIR": str(TEST_MODELS), "APP_MODELS": "tiny", "APP_DEADLINE_S": "60"}
    defaults["APP_COMPILE"] = "off"  # it would take the cores from whatever is tested
    with log.open("w") as stderr:
        process = subprocess.Popen(
            [sys.executable, "-m", "app", "serve", "--port", "0", *flags],
            cwd=ROOT,
            env={**os.environ, **defaults, **environment},
            stderr=stderr,
            stdout=subprocess.DEVNULL,
            text=True,
        )
    server = None
    try:
        server = Server(process, log)
        yield server
    finally:
        if server is not None:
            server.stop()
        process.kill()
        process.wait()


def accept_all(listener: socket.socket) -> int:
    """How many connections wait at a socket; they are closed."""
    listener.setblocking(False)
    count = 0
    with suppress(OSError):  # no more of them, or it does not listen
        while True:
            listener.accept()[0].close()
            count += 1
    return count


def command_line(pid: int) -> bytes:
    """Nothing, where the process has just gone."""
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes()
    except (FileNotFoundError, ProcessLookupError):
        return b""


def child_pids(pid: int) -> list[int]:
    tasks = Path(f"/proc/{pid}/task").iterdir()  # each thread has those that it started
    children = " ".join((task / "children").read_text() for task in tasks)
    return [int(child) for child in children.split()]


def wait_for(condition: Callable[[], T | None], seconds: float = _START_S) -> T:
    """Poll until something is there; fails after two minutes, or so many seconds."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if found := condition():
            return found
        time.sleep(0.02)
    raise TimeoutError(f"not within {seconds} s: {condition}")
