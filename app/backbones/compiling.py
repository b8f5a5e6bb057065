"""Make machine code of a model's trunk, and see whether it is worth having.

AOTInductor compiles the trunk for one number of rows at a time, which takes a core a quarter of a
minute. What it gains is Python's part, as much as half of a light network's time for one picture,
and the steps that oneDNN has no layer for. On transformers it loses: it multiplies by MKL.
"""

import logging
import shutil
import statistics
import time
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
import torch._inductor
from torch import Tensor

from app.backbones.builds import Build, Built
from app.backbones.compiled import SIZES, Batch
from app.backbones.manifest import Manifest
from app.backbones.model import Loading, Model
from app.backbones.program import Program

log = logging.getLogger(__name__)

_WORTH = 1.08  # times as fast as the trunk is: each program has the weights once more in memory
_LEAST = 9  # turns
_SECONDS = 2.0  # of the cores, for all turns
_OPTIONS = {
    "freezing": True,  # weights are constants, laid out once
    "cpp.dynamic_threads": True,  # as many as the thread that calls may use
}


@dataclass(frozen=True, slots=True)
class Cores:
    """A worker's: all of them, for a row alone; and the share of a batch beside others."""

    all: int
    share: int


def compile_model(
    manifest: Manifest, loading: Loading, folder: Path, cores: Cores, max_rows: int
) -> Build:
    """As ``compile_trunk``, of a model that a manifest describes; whatever fails is in the build.

    A compiler fails in any way. The model serves as it is, and nobody tries again.
    """
    torch.set_num_threads(cores.all)
    try:
        model = Model(manifest, torch.device("cpu"), loading)
        return compile_trunk(model, folder, cores, max_rows)
    except Exception as exc:
        log.exception("%s cannot be compiled", manifest.name)
        last = (str(exc).strip().splitlines() or [""])[-1]
        return Build(error=f"{type(exc).__name__}: {last}")


def compile_trunk(model: Model, folder: Path, cores: Cores, max_rows: int) -> Build:
    """Compile the trunk of a model's own cut for the batches that it will have.

    From small ones to large ones, which gain less, until one is not worth it.

    Args:
        model: on a processor; see ``Model.can_compile``.
        folder: where the programs go that are worth having.
        cores: of the worker.
        max_rows: of its largest batch.

    Returns:
        What became of each.

    Raises:
        ModelCheckFailed: a program does not give the model's logits.
        Exception: whatever the compiler raises.
    """
    found: list[Built] = []
    for batch in _batches(cores, max_rows):
        found.append(_build(model, folder, batch, cores))
        if not found[-1].library and not batch.several:
            break
    return Build(programs=tuple(found))


def _batches(cores: Cores, max_rows: int) -> Iterator[Batch]:
    if cores.all > 1:
        yield Batch(1, several=True)
    yield from (Batch(rows) for rows in sorted(SIZES) if rows <= max_rows)


def _build(model: Model, folder: Path, batch: Batch, cores: Cores) -> Built:
    library = folder / f"{batch.rows}{'-several' if batch.several else ''}.so"
    x = model.example(batch.rows)
    torch.set_num_threads(1 if batch == Batch(1) else cores.all)  # loops and layouts are made for
    program = make_program(model, x, library)
    model.check_trunk("program", program, batch.rows)
    torch.set_num_threads(cores.all if batch.several else cores.share)
    gain = _gain(model.cut().forward_features, program, x)
    if gain < _WORTH:
        library.unlink()
    name = library.name if gain >= _WORTH else None
    return Built(rows=batch.rows, several=batch.several, gain=round(gain, 3), library=name)


def make_program(model: Model, x: Tensor, library: Path) -> Program:
    """Compile the trunk of a model's own cut for inputs of exactly the shape of ``x``.

    Args:
        model: on a processor.
        x: pictures, [rows, 3, H, W], channels last.
        library: the file to be made. Its layouts and loops suit as many cores as torch may use now.

    Raises:
        Exception: whatever the compiler raises.
    """
    package = library.with_suffix(".pt2")
    with torch.no_grad():  # else nothing is frozen
        exported = torch.export.export(model.portable_trunk(), (x,))
        torch._inductor.aoti_compile_and_package(  # noqa: SLF001 - documented under that name
            exported, package_path=str(package), inductor_configs=_OPTIONS
        )
    # The library alone: torch would unpack it anew, into /tmp, whenever a worker starts.
    with zipfile.ZipFile(package) as archive:
        (member,) = (name for name in archive.namelist() if name.endswith(".so"))
        with archive.open(member) as source, library.open("wb") as target:
            shutil.copyfileobj(source, target)
    package.unlink()
    return Program(library)


def _gain(trunk: Callable[[Tensor], Tensor], program: Program, x: Tensor) -> float:
    """How many times as fast the program is: medians of the cores' time, in turns.

    By the clock others would count, too: this process gives way to all of them.
    """
    times: dict[Callable[[Tensor], Tensor], list[float]] = {trunk: [], program: []}
    until = time.process_time() + _SECONDS
    with torch.no_grad():
        while time.process_time() < until or len(times[trunk]) < _LEAST:
            for function, found in times.items():
                began = time.process_time()
                function(x)
                found.append(time.process_time() - began)
    return statistics.median(times[trunk]) / statistics.median(times[program])
