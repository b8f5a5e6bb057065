"""The command ``tune``: the settings that suit a model on this machine."""

import argparse
import os
import tempfile
from collections.abc import Iterator, Mapping
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from multiprocessing import get_context
from pathlib import Path
from typing import TYPE_CHECKING

from app.backbones.manifest import Manifest, find_manifest
from app.engine.environment import environment, has_openvino
from app.errors import ModelCheckFailed
from app.machine import cores, find_devices
from app.settings import Settings
from app.types import Precision

if TYPE_CHECKING:
    from app.backbones.model import Model
    from app.engine.tuning import Measured


def add_tune(tune: argparse.ArgumentParser) -> None:
    """Give the command its arguments."""
    tune.add_argument("model")
    tune.add_argument("--latency", type=float, metavar="MS", help="longest median time of a batch")
    tune.add_argument("--seconds", type=float, default=10, help="to measure each precision for")
    tune.set_defaults(run=_tune)


# Worth trying: processors have fp16 for storage only, or slower than bf16.
_PRECISIONS: dict[str, tuple[Precision, ...]] = {
    "cpu": ("fp32", "bf16"),
    "cuda": ("fp32", "bf16", "fp16"),
}


def _tune(arguments: argparse.Namespace) -> None:
    settings = Settings()
    manifest = find_manifest(settings.models_dir, arguments.model)
    found: dict[Precision, list[Measured]] = {}
    with _like_a_worker() as process:
        for precision in _PRECISIONS[find_devices(settings.devices)[0].partition(":")[0]]:
            try:
                measuring = process.submit(
                    _measure, settings, manifest, precision, arguments.seconds
                )
                compiled, found[precision] = measuring.result()
            except ModelCheckFailed as exc:
                if precision == "fp32":
                    raise
                print(f"{precision}: {exc.detail}")
            else:
                print(f"{precision}  {compiled}")
                _print(found[precision])
    _advise(found, arguments.latency)


@contextmanager
def _like_a_worker() -> Iterator[ProcessPoolExecutor]:
    """A process with a worker's environment, which it must find at its start."""
    before = os.environ.copy()
    os.environ.update(environment("worker"))
    try:
        with ProcessPoolExecutor(1, get_context("spawn")) as process:
            yield process
    finally:
        os.environ.clear()
        os.environ.update(before)


def _measure(
    settings: Settings, manifest: Manifest, precision: Precision, seconds: float
) -> "tuple[str, list[Measured]]":
    """Of a model as a worker has it after its first minute; first what compiling it came to."""
    import torch

    from app.engine.device import apart
    from app.engine.tuning import measure

    chosen = manifest.model_copy(update={"precision": precision})
    model = apart(_load, settings, chosen)
    compiled = apart(_compile, settings, chosen, model)
    torch.set_num_threads(cores())  # compiling may have left fewer
    return compiled, measure(model, seconds=seconds)


def _print(found: "list[Measured]") -> None:
    for one in found:
        print(
            f"{one.precision}  APP_MAX_BATCH_SIZE={one.rows:<3} {one.milliseconds:8.1f} ms a batch"
            f" {one.rate:9.1f} images/s"
        )


def _load(settings: Settings, manifest: Manifest) -> "Model":
    import torch

    from app.backbones.model import Loading, Model
    from app.engine.tuning import SIZES

    torch.set_num_threads(cores())
    device = torch.device(find_devices(settings.devices)[0])
    return Model(manifest, device, replace(Loading.by(settings), rows=max(SIZES)))


def _compile(settings: Settings, manifest: Manifest, model: "Model") -> str:
    """Let a model use the programs that are worth having, and say which."""
    from app.backbones.compiling import compile_model
    from app.backbones.cores import Cores
    from app.backbones.model import Loading
    from app.backbones.program import load_warm
    from app.engine.device import Device

    if settings.compile == "off" or not model.can_compile:
        return "nothing compiled"
    if not has_openvino():
        return "nothing compiled: OpenVINO is not installed"
    sharing = Device(model.device).sharing(settings.max_batch_size)
    of_worker = Cores(cores(), sharing.drivers)
    with tempfile.TemporaryDirectory() as folder:
        build = compile_model(
            manifest, Loading.by(settings), Path(folder), of_worker, sharing.max_rows
        )
        if build.kinds:
            made = load_warm(
                Path(folder) / build.FILE,
                build.kinds,
                model.precision,
                of_worker,
                sharing.max_rows,
            )
            model.use(made, of_worker)
    return build.error or f"compiled, {build}"


def _advise(found: "Mapping[Precision, list[Measured]]", latency_ms: float | None) -> None:
    from app.engine.tuning import advise

    advised = [best for measured in found.values() if (best := advise(measured, latency_ms))]
    if not advised:
        print(f"\nNo batch is done within {latency_ms:g} ms.")
        return
    plain = advised[0]  # float32, where that is fast enough
    fastest = max(advised, key=lambda one: one.rate)
    print(f"\n{_setting(plain)}")
    if fastest is not plain:
        print(
            f"{_setting(fastest)}; {fastest.rate / plain.rate:.2f} times as fast; on the"
            " self-check's pictures no score moved by more than 0.01"
        )


def _setting(one: "Measured") -> str:
    size = f"APP_MAX_BATCH_SIZE={one.rows} APP_PRECISION={one.precision}"
    return f"{size}  # {one.milliseconds:.0f} ms a batch"
