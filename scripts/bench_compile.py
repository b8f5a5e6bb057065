"""Would a compiler make the trunk faster? camserve's own rewriting beside torch.compile's.

Run as: .venv/bin/python scripts/bench_compile.py [resnet50 …] [--rows 1 8] [--precision fp32 bf16]

For each model, precision and batch size the same trunk runs in turns: as PyTorch has it
(channels last), fused as camserve does it at once, compiled by torch.compile with frozen weights
and this batch's shape, and as OpenVINO's program, which takes over meanwhile. Printed are the
medians, and how long each took to make. torch.compile needs a C++ compiler; weights are random. All
run in the environment of a worker, with --threads.
"""

import argparse
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import torch
from torch import Tensor, nn

ROOT = Path(__file__).parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "scripts")]

from benchmark.engine import like_a_worker  # noqa: E402

from app.backbones.cores import Cores  # noqa: E402
from app.backbones.manifest import read_manifest  # noqa: E402 - from a checkout
from app.backbones.model import Loading, Model  # noqa: E402
from app.backbones.program import Program, convert, read  # noqa: E402
from app.types import Precision  # noqa: E402

MODELS = ("resnet50", "mobilenet_v3_small", "efficientnet_b0", "vit_b_16")
MANIFEST = """
name = "{name}"
family = "torchvision"
architecture = "{name}"
weights = "random"
"""
SECONDS = 6.0  # for all trunks of one row together
LEAST = 7  # turns

Trunk = Callable[[Tensor], Tensor]


def main() -> None:
    """Read the command line; measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=_Verbatim)
    parser.add_argument("models", nargs="*", default=MODELS)
    parser.add_argument("--rows", nargs="+", type=int, default=(1, 8))
    parser.add_argument("--precision", nargs="+", default=("fp32", "bf16"))
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 1)
    options = parser.parse_args()
    like_a_worker()
    torch.set_num_threads(options.threads)
    print(f"torch {torch.__version__}, {options.threads} threads; milliseconds a batch")
    for name in options.models:
        for precision in options.precision:
            _compare(name, precision, options.rows)


_Verbatim = argparse.RawDescriptionHelpFormatter


def _compare(name: str, precision: Precision, sizes: list[int]) -> None:
    plain, model = (_model(name, precision, fused=fused) for fused in (False, True))
    eager, fused = (m.cut().forward_features for m in (plain, model))
    for rows in sizes:
        torch.compiler.reset()
        x = model.example(rows)
        compiled = _timed("torch.compile", partial(_compiled, eager, x))
        program = _timed("program", partial(_program, model, x))
        trunks = {"eager": eager, "fused": fused, "compiled": compiled, "program": program}
        found = _medians({what: trunk for what, trunk in trunks.items() if trunk is not None}, x)
        times = "  ".join(f"{what} {seconds * 1e3:7.2f}" for what, seconds in found.items())
        print(f"{name:20}{precision:6}{rows:3} rows  {times}", flush=True)


def _model(name: str, precision: Precision, *, fused: bool) -> Model:
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / f"{name}.toml"
        file.write_text(MANIFEST.format(name=name))
        return Model(read_manifest(file), torch.device("cpu"), Loading(precision, fused=fused))


@torch.no_grad()
def _compiled(trunk: nn.Module, x: Tensor) -> Trunk:
    torch._inductor.config.freezing = True  # noqa: SLF001 - that is how it is set
    compiled: Trunk = torch.compile(trunk, dynamic=False)
    compiled(x)
    return compiled


def _program(model: Model, x: Tensor) -> Trunk:
    cores = Cores(torch.get_num_threads(), drivers=1)
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "trunk.xml"
        convert(model.portable_trunk(), model.example(2), file)
        program = Program(read(file), "alone" if len(x) == 1 else "beside", model.precision, cores)
        program(x)  # what it still reads is read now
    return program


def _timed(what: str, make: Callable[[], Trunk]) -> Trunk | None:
    began = time.perf_counter()
    try:
        made = make()
    except Exception as exc:  # noqa: BLE001 - a model that cannot be compiled is a result, too
        print(f"  {what}: {type(exc).__name__}: {str(exc).splitlines()[0]}", flush=True)
        return None
    print(f"  {what}: made in {time.perf_counter() - began:.0f} s", flush=True)
    return made


@torch.no_grad()
def _medians(trunks: dict[str, Trunk], x: Tensor) -> dict[str, float]:
    times: dict[str, list[float]] = {what: [] for what in trunks}
    for trunk in trunks.values():
        trunk(x)
    until = time.perf_counter() + SECONDS
    while time.perf_counter() < until or len(times["eager"]) < LEAST:
        for what, trunk in trunks.items():
            began = time.perf_counter()
            trunk(x)
            times[what].append(time.perf_counter() - began)
    return {what: statistics.median(found) for what, found in times.items()}


if __name__ == "__main__":
    main()
