"""Compiles the models that a worker serves, beside the service; what is good is taken.

A model serves from its first moment on. A child that gives way to everything else compiles its
trunk meanwhile (``backbones/compiling.py``); what it makes is kept, and found at the next start.
"""

import logging
import signal
import socket
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from queue import SimpleQueue
from threading import Thread
from typing import TYPE_CHECKING
from weakref import WeakSet

from app.backbones.builds import Build, building, find, keep, place_of
from app.backbones.cores import Cores
from app.backbones.manifest import Manifest
from app.backbones.memory import check_compiles
from app.backbones.program import openvino
from app.backbones.registry import Registry
from app.engine.control import BlockingControl, Line
from app.engine.environment import has_openvino
from app.errors import CamserveError, ModelReplaced
from app.types import CompileInfo, CompileState

if TYPE_CHECKING:
    from app.backbones.model import Model

log = logging.getLogger(__name__)

Adopt = Callable[[str, str, Path, Build], None]


class Unable(Exception):
    """A model is served as it is; the message says why."""


@dataclass(frozen=True, slots=True)
class Child:
    """Starts the child that compiles, with what it must know beside the model.

    Attributes:
        settings: as JSON has them.
        cores: of the worker.
        max_rows: of a batch.
    """

    settings: Line
    cores: Cores
    max_rows: int

    def __call__(self, manifest: Manifest, work: Path) -> Build:
        """Compile a model, in a folder for whatever is written.

        Raises:
            Unable: the child was killed.
        """
        ours, theirs = socket.socketpair()
        with (work / "log").open("wb") as output, theirs:
            process = subprocess.Popen(  # noqa: S603 - this program itself
                [sys.executable, "-m", "app", "child", "compiler", str(theirs.fileno())],
                pass_fds=[theirs.fileno()],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                process_group=0,  # what it starts ends with it
            )
        control = BlockingControl(ours)
        control.send(
            {
                "kind": "start",
                "name": "compiler",
                "settings": self.settings,
                "manifest": {**manifest.model_dump(mode="json"), "path": str(manifest.path)},
                "threads": self.cores.all,
                "drivers": self.cores.drivers,
                "max_rows": self.max_rows,
                "folder": str(work / "made"),
            }
        )
        line = control.receive()
        control.close()
        return _build(line, process.wait(), work / "log")


def _build(line: Line | None, status: int, output: Path) -> Build:
    if line:
        return Build.model_validate(line["build"])
    if -status in {signal.SIGKILL, signal.SIGTERM}:  # nothing that the model is to blame for
        raise Unable("the compiling process was killed; perhaps memory was short")
    last = (output.read_text("utf-8", "replace").strip().splitlines() or ["it wrote nothing"])[-1]
    return Build(error=f"the compiling process ended with status {status}: {last[:200]}")


class Compiler:
    """Compiles the models of a worker, one after the other, in a thread of its own.

    Args:
        registry: the worker's models.
        child: compiles one.
        cores: of the worker.
        max_rows: of a batch.
        adopt: lets a model of that name and version use a build.
        on_change: called whenever a model's ``compile`` changes.
    """

    def __init__(
        self,
        registry: Registry,
        child: Callable[[Manifest, Path], Build],
        cores: Cores,
        max_rows: int,
        adopt: Adopt,
        on_change: Callable[[], None],
    ) -> None:
        self._registry = registry
        self._child = child
        self._cores = cores
        self._max_rows = max_rows
        self._adopt = adopt
        self._on_change = on_change
        self._known: WeakSet[Model] = WeakSet()
        self._wanted: SimpleQueue[tuple[str, str]] = SimpleQueue()

    def start(self) -> None:
        """Compile what ``follow`` finds."""
        Thread(target=self._run, daemon=True).start()

    def follow(self) -> None:
        """Take up the models that are ready and new."""
        for model in self._registry.ready():
            if model in self._known:
                continue
            self._known.add(model)
            if model.can_compile and model.info.compile.state == "off":  # it has kept programs else
                self._registry.note(model, CompileInfo(state="running", detail="waits"))
                self._wanted.put((model.info.name, str(model.info.version)))

    def _run(self) -> None:
        self._import()
        while True:
            name, version = self._wanted.get()
            try:
                self._compile(name, version)
            except ModelReplaced:
                log.info("%s has gone meanwhile", name)
            except Unable as exc:
                self._note(name, version, "off", str(exc))
            except OSError as exc:  # of the cache
                self._note(name, version, "failed", f"{type(exc).__name__}: {exc}")
            except Exception as exc:
                # Whatever is wrong with it, the model serves on as it is.
                log.exception("%s cannot use what was compiled", name)
                self._note(name, version, "failed", f"{type(exc).__name__}: {exc}")

    def _import(self) -> None:
        """Now, while models are loaded: later it would hold up whoever computes."""
        if has_openvino():
            try:
                openvino()
            except Exception:
                log.exception("OpenVINO is installed, and cannot be used")  # each model tells it

    def _compile(self, name: str, version: str) -> None:
        if not has_openvino():
            raise Unable("OpenVINO is not installed, which would make it faster")
        openvino()  # what keeps it from being imported may pass: that is no verdict to keep
        precision = self._registry.get(name, version).precision
        place = place_of(version, precision, self._cores, self._max_rows)
        with building(place) as work:
            build = find(place)
            if build is None:
                self._note(name, version, "running", "compiles")
                build = self._make(name, version, work)
                keep(build, work / "made", place)
            if build.kinds:
                self._adopt(name, version, place, build)
        if build.error:
            self._note(name, version, "failed", build.error)
        elif build.kinds:
            self._note(name, version, "ready", str(build))
        else:
            self._note(name, version, "off", f"no faster: {build}")

    def _make(self, name: str, version: str, work: Path) -> Build:
        model = self._registry.get(name, version)
        try:
            check_compiles(model.module)
        except CamserveError as exc:
            raise Unable(exc.detail) from exc
        manifest = self._registry.manifest(name)
        if manifest.version() != version:  # of a model that is being loaded in its place
            raise ModelReplaced(f"Another version of {name!r} is loaded.")
        del model  # it may be replaced meanwhile
        (work / "made").mkdir()
        return self._child(manifest, work)

    def _note(self, name: str, version: str, state: CompileState, detail: str) -> None:
        log.info("the programs of %s: %s, %s", name, state, detail)
        try:
            model = self._registry.get(name, version)
        except ModelReplaced:
            return
        self._registry.note(model, CompileInfo(state=state, detail=detail))
        self._on_change()
