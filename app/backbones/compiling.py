"""Compile a model's trunk, and see whether it is worth having.

OpenVINO gains what lies between the layers, PyTorch's part of each call: a tenth of a heavy
network's time for a picture, more than half of a light one's, and less the more rows share it.
"""

import logging
import statistics
import time
from collections.abc import Callable, Iterator
from math import prod
from pathlib import Path

import torch
from torch import Tensor

from app.backbones.builds import Build, Built
from app.backbones.cores import Cores, Kind
from app.backbones.manifest import Manifest
from app.backbones.model import Loading, Model
from app.backbones.program import Program, Trunk, convert, read

log = logging.getLogger(__name__)

_WORTH = 1.02  # times as fast as the trunk is: below, nobody could tell
_LEAST = 5  # turns
_SECONDS = 1.0  # of the cores, for all turns
_MEASURES: dict[Kind, tuple[Callable[[], float], Callable[[list[float]], float]]] = {
    "alone": (time.perf_counter, min),
    "beside": (time.process_time, statistics.median),
}
_SIZES = (1, 2, 4, 8)  # rows
_EXAMPLES = 2  # rows that a trunk is converted with; one would be taken for all that there can be


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
    """Compile the trunk of a model's own cut.

    Args:
        model: on a processor; see ``Model.can_compile``.
        folder: where it goes.
        cores: of the worker.
        max_rows: of its largest batch.

    Returns:
        What became of each program.

    Raises:
        ModelCheckFailed: one does not give the model's logits.
        Exception: whatever the compiler raises.
    """
    file = folder / Build.FILE
    convert(model.portable_trunk(), model.example(_EXAMPLES), file)
    trunk = read(file)
    return Build(
        programs=tuple(_built(model, trunk, kind, cores, max_rows) for kind in cores.kinds)
    )


def _built(model: Model, trunk: Trunk, kind: Kind, cores: Cores, max_rows: int) -> Built:
    program = Program(trunk, kind, model.precision, cores)
    model.check_program(kind, program)
    torch.set_num_threads(cores.all if kind == "alone" else cores.share)
    gains = list(_gains(model, kind, program, max_rows))
    gain = prod(gains) ** (1 / len(gains))
    return Built(kind=kind, gain=round(gain, 3), kept=gain >= _WORTH)


def _gains(model: Model, kind: Kind, program: Program, max_rows: int) -> Iterator[float]:
    """For one row, and for batches of several."""
    sizes = [rows for rows in _SIZES if rows <= max_rows and (rows == 1 or kind == "beside")]
    for rows in sizes:
        yield _gain(model.cut().forward_features, program, model.example(rows), kind)


def _gain(trunk: Callable[[Tensor], Tensor], program: Program, x: Tensor, kind: Kind) -> float:
    """How many times as fast the program is, in turns.

    Medians of the cores' time; by the clock others would count, too, as this process gives way to
    all of them. A row alone is there to be done soon: the shortest times, by the clock.
    """
    clock, of = _MEASURES[kind]
    times: dict[Callable[[Tensor], Tensor], list[float]] = {trunk: [], program: []}
    with torch.no_grad():
        for function in times:
            function(x)  # the first time it chooses kernels
        until = time.process_time() + _SECONDS
        while time.process_time() < until or len(times[trunk]) < _LEAST:
            for function, found in times.items():
                began = clock()
                function(x)
                found.append(clock() - began)
    return of(times[trunk]) / of(times[program])
