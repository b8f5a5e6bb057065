"""Whatever becomes of compiling a model, it serves, and says so."""

import signal
import socket
import subprocess
import sys
from pathlib import Path
from queue import Queue

import pytest
import torch

from app.backbones import memory, program
from app.backbones.builds import Build, Built
from app.backbones.cores import Cores
from app.backbones.manifest import Manifest
from app.backbones.registry import Registry
from app.engine import compiler as compiler_module
from app.engine.compiler import Child, Compiler, Unable, _build
from app.errors import ModelCheckFailed, ModelReplaced
from app.settings import Settings
from app.types import CompileInfo
from tests.unit.conftest import make_manifest

FASTER = Build(programs=(Built(kind="beside", gain=1.5, kept=True),))
SLOWER = Build(programs=(Built(kind="beside", gain=0.9, kept=False),))


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    monkeypatch.setattr(compiler_module, "has_openvino", lambda: True)


class Work:
    """A compiler whose child does what it is told."""

    def __init__(self, outcome: Build | Exception, adopted: Exception | None = None) -> None:
        self.outcome = outcome
        self.children: list[Path] = []
        self.adopted: list[Build] = []
        self._adopt_error = adopted
        self.states: Queue[CompileInfo] = Queue()
        self.registry = Registry({"m": make_manifest()}, torch.device("cpu"))
        self.compiler = Compiler(
            self.registry, self._child, Cores(2, 2), 8, self._adopt, self._on_change
        )
        self.compiler.start()

    def serve(self) -> CompileInfo:
        """Load the model anew; what becomes of its trunk."""
        self.registry.unload("m")
        assert self.registry.load("m", lambda _model: None) is None
        self.compiler.follow()
        self.compiler.follow()  # a change of another model
        while (info := self.states.get(timeout=60)).state == "running":
            pass
        return info

    def _child(self, manifest: Manifest, work: Path) -> Build:
        assert manifest.name == "m"
        self.children.append(work)
        if isinstance(self.outcome, Exception):
            raise self.outcome
        return self.outcome

    def _adopt(self, name: str, version: str, place: Path, build: Build) -> None:
        if self._adopt_error:
            raise self._adopt_error
        self.registry.get(name, version)
        self.adopted.append(build)

    def _on_change(self) -> None:
        (model,) = self.registry.models()
        assert model.state == "ready"
        self.states.put(model.compile)


def test_a_model_uses_what_was_made_and_finds_it_at_the_next_start() -> None:
    work = Work(FASTER)
    for _ in range(2):
        assert work.serve() == CompileInfo(state="ready", detail=str(FASTER))
    assert work.adopted == [FASTER, FASTER]
    assert len(work.children) == 1
    assert not work.children[0].exists()


def test_a_model_that_gains_nothing_stays_as_it_is_and_is_not_compiled_again() -> None:
    work = Work(SLOWER)
    for _ in range(2):
        info = work.serve()
        assert info.state == "off"
        assert "0.90" in info.detail
    assert (len(work.children), work.adopted) == (1, [])


def test_what_cannot_be_compiled_is_told_and_not_tried_again() -> None:
    work = Work(Build(error="OpConversionFailure: broken"))
    for _ in range(2):
        assert work.serve() == CompileInfo(state="failed", detail="OpConversionFailure: broken")
    assert len(work.children) == 1


def test_a_child_that_was_killed_says_nothing_about_the_model() -> None:
    work = Work(Unable("it was killed"))
    assert work.serve() == CompileInfo(state="off", detail="it was killed")
    work.outcome = FASTER
    assert work.serve().state == "ready"


def test_without_openvino_models_serve_as_they_are(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(compiler_module, "has_openvino", lambda: False)
    monkeypatch.setattr(program, "openvino", missing)
    monkeypatch.setattr(compiler_module, "openvino", missing)
    work = Work(FASTER)
    info = work.serve()
    assert (info.state, work.children) == ("off", [])
    assert "OpenVINO is not installed" in info.detail


def missing() -> None:
    raise ImportError("libtbb.so.12: cannot open shared object file")


def test_an_openvino_that_cannot_be_imported_is_told_by_each_model(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(program, "openvino", missing)
    monkeypatch.setattr(compiler_module, "openvino", missing)
    info = Work(FASTER).serve()
    assert info.state == "failed"
    assert "libtbb" in info.detail


def test_what_is_loaded_in_a_models_place_is_not_compiled_for_it(tmp_path: Path) -> None:
    work = Work(FASTER)
    assert work.registry.load("m", lambda _model: None) is None
    (model,) = work.registry.models()
    work.registry.enlist(make_manifest(description="another"), "loading")
    with pytest.raises(ModelReplaced):
        work.compiler._make("m", str(model.version), tmp_path)
    assert work.children == []


def test_nothing_is_compiled_where_memory_is_short(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory, "_available", lambda: 1_000_000_000)
    work = Work(FASTER)
    info = work.serve()
    assert (info.state, work.children) == ("off", [])
    assert "1,000 MB are free" in info.detail


@pytest.mark.parametrize(
    "error", [ModelCheckFailed("program: differs"), OSError("no such file"), RuntimeError("died")]
)
def test_programs_that_cannot_be_used_leave_the_model_as_it_is(error: Exception) -> None:
    info = Work(FASTER, adopted=error).serve()
    assert info.state == "failed"
    assert str(error) in info.detail or getattr(error, "detail", None)


def test_a_cache_that_cannot_be_written_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "file"))
    info = Work(FASTER).serve()
    assert info.state == "failed"
    assert "NotADirectoryError" in info.detail


def test_a_model_that_went_while_it_was_compiled_needs_nothing() -> None:
    work = Work(FASTER)

    def unload(manifest: Manifest, folder: Path) -> Build:
        work.registry.unload("m")
        work.registry.release("m", manifest.version())
        gone.put(manifest)
        return FASTER

    gone: Queue[Manifest] = Queue()
    work.compiler._child = unload
    assert work.registry.load("m", lambda _model: None) is None
    work.compiler.follow()
    gone.get(timeout=60)
    work.compiler._child = work._child
    assert work.serve().state == "ready"  # the thread goes on


def test_a_child_that_dies_of_a_model_is_its_verdict_and_a_killed_one_is_none(
    tmp_path: Path,
) -> None:
    log = tmp_path / "log"
    log.write_text("one\nwhat it said last\n")
    assert "what it said last" in str(_build(None, -signal.SIGSEGV, log).error)
    with pytest.raises(Unable, match="killed"):
        _build(None, -signal.SIGKILL, log)


def test_the_child_of_a_model_that_cannot_be_built_says_why(tmp_path: Path) -> None:
    child = Child(Settings().model_dump(mode="json"), Cores(1, 1), max_rows=1)
    build = child(make_manifest(tmp_path, weights="there-is-none.pth", sha256="0" * 64), tmp_path)
    assert build.error
    assert "there-is-none.pth" in build.error


def test_background_work_has_the_lowest_priority_and_ends_with_its_parent() -> None:
    code = """
import os, socket, sys
from app.engine.background import end_with, process_gives_way
from app.engine.control import BlockingControl
control = BlockingControl(socket.socket(fileno=int(sys.argv[1])))
end_with(control)
process_gives_way()
os.posix_spawn("/bin/sh", ["sh", "-c", "cat /proc/self/oom_score_adj; exec sleep 600"], os.environ)
print(os.nice(0), os.sched_getscheduler(0) == os.SCHED_IDLE, flush=True)
os.wait()
"""
    ours, theirs = socket.socketpair()
    child = subprocess.Popen(
        [sys.executable, "-c", code, str(theirs.fileno())],
        pass_fds=[theirs.fileno()],
        stdout=subprocess.PIPE,
        text=True,
        process_group=0,
    )
    theirs.close()
    assert child.stdout is not None
    said = {child.stdout.readline().strip() for _ in range(2)}
    assert said == {"19 True", "1000"}
    ours.close()
    assert child.stdout.read() == ""  # the pipe is closed: its own child has ended, too
    child.stdout.close()
    assert child.wait(60) == -signal.SIGKILL
