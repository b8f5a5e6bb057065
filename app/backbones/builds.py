"""Compiled trunks, kept from start to start: in torch's cache, beside downloaded weights."""

import atexit
import hashlib
import os
import platform
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import ClassVar

import torch
import torch.hub

import app
from app.backbones.alone import alone
from app.backbones.cores import Cores, Kind
from app.backbones.program import openvino_version
from app.types import Frozen

_FORMAT = 2
_CPUINFO = Path("/proc/cpuinfo")
_FILE = "build.json"
_TRYING = "trying"


class Built(Frozen):
    """A program: ``gain`` times as fast as the trunk was; ``kept`` where it is worth having."""

    kind: Kind
    gain: float
    kept: bool

    def __str__(self) -> str:
        return f"{self.kind} {self.gain:.2f}"


class Build(Frozen):
    """What compiling a trunk came to; ``error``: it never will."""

    FILE: ClassVar = "trunk.xml"

    programs: tuple[Built, ...] = ()
    error: str | None = None

    def __str__(self) -> str:
        return f"times as fast: {', '.join(map(str, self.programs))}"

    @property
    def kinds(self) -> tuple[Kind, ...]:
        """Of the programs that are worth having."""
        return tuple(built.kind for built in self.programs if built.kept)


def place_of(version: str, precision: str, cores: Cores, max_rows: int) -> Path:
    """Where the build of a model is kept: of these weights, for this machine and libraries.

    Args:
        version: of its manifest and weights.
        precision: of the trunk.
        cores: of the worker.
        max_rows: of its largest batch.
    """
    libraries = (app.__version__, torch.__version__, openvino_version())
    parts = (_FORMAT, *libraries, version, precision, cores, max_rows, _processor())
    key = hashlib.sha256("\n".join(map(str, parts)).encode()).hexdigest()[:32]
    return Path(torch.hub.get_dir()) / "compiled" / key


@contextmanager
def using(place: Path, *, wait: bool = True) -> Iterator[None]:
    """A place, for one thread of all processes at a time.

    Raises:
        BlockingIOError: somebody else uses it, who is not waited for.
        OSError: the cache cannot be written.
        PermissionError: others could have written it, too: what is in it answers for the model.
    """
    place.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    status = place.parent.stat()
    if status.st_uid != os.getuid() or status.st_mode & 0o022:
        raise PermissionError(f"others than this user may write into {place.parent}")
    with alone(place, wait=wait):
        yield


@contextmanager
def building(place: Path) -> Iterator[Path]:
    """A folder to build in, by one process at a time; it is gone afterwards.

    Raises:
        OSError: as ``using``.
    """
    with using(place):
        part = place.with_name(place.name + ".part")
        shutil.rmtree(part, ignore_errors=True)  # of a process that was killed
        part.mkdir()
        try:
            yield part
        finally:
            shutil.rmtree(part, ignore_errors=True)


def keep(build: Build, made: Path, place: Path) -> None:
    """Put a build into its place, whole or not at all; ``made`` has its trunk."""
    (made / _FILE).write_text(build.model_dump_json(), "utf-8")
    shutil.rmtree(place, ignore_errors=True)
    made.rename(place)


def find(place: Path) -> Build | None:
    """What is kept there; None: nothing yet."""
    file = place / _FILE
    return Build.model_validate_json(file.read_text("utf-8")) if file.is_file() else None


@contextmanager
def trying(place: Path) -> Iterator[None]:
    """Run a build's programs within this for the first time.

    A process that dies at it does so once: the next one finds the mark that it has left.

    Raises:
        RuntimeError: there is such a mark.
    """
    mark = place / _TRYING
    try:
        mark.touch(exist_ok=False)
    except FileExistsError:
        raise RuntimeError(
            f"a worker ended while it tried them; remove {place} to have them compiled again"
        ) from None
    remove = partial(mark.unlink, missing_ok=True)
    atexit.register(remove)  # a worker that is told to end does not wait for its threads
    try:
        yield
    finally:
        atexit.unregister(remove)
        remove()


def _processor() -> str:
    """Its name and what it knows: what a program gains depends on that."""
    if not _CPUINFO.is_file():
        return platform.processor() or platform.machine()
    text = _CPUINFO.read_text("utf-8", "replace")
    return "\n".join(re.findall(r"^(?:model name|flags|Features)\s*:.*$", text, re.MULTILINE)[:2])
