"""The command ``tune``: the settings that suit a model on this machine."""

import argparse
import os
from typing import TYPE_CHECKING

from app.backbones.manifest import Manifest, find_manifest
from app.errors import ModelCheckFailed
from app.settings import Settings
from app.types import Precision

if TYPE_CHECKING:
    from app.backbones.model import Model
    from app.engine.tuning import Measured


def add_tune(tune: argparse.ArgumentParser) -> None:
    """Give the command its arguments."""
    tune.add_argument("model")
    tune.add_argument("--latency", type=float, metavar="MS", help="longest time of a batch")
    tune.add_argument("--seconds", type=float, default=10, help="to measure each precision for")
    tune.set_defaults(run=_tune)


def _tune(arguments: argparse.Namespace) -> None:
    settings = Settings()
    manifest = find_manifest(settings.models_dir, arguments.model)
    precisions: tuple[Precision, ...] = ("fp32", "bf16")
    found = {
        precision: _measure(settings, manifest, precision, arguments.seconds)
        for precision in precisions
    }
    _advise(found["fp32"], found["bf16"], arguments.latency)


def _measure(
    settings: Settings, manifest: Manifest, precision: Precision, seconds: float
) -> "list[Measured]":
    """Print the times in one precision, or why it cannot be had."""
    from app.engine.tuning import measure

    try:
        measured = measure(_load(settings, manifest, precision), seconds=seconds)
    except ModelCheckFailed as exc:
        if precision == "fp32":
            raise
        print(f"{precision}: {exc.detail}")
        return []
    for one in measured:
        print(
            f"{precision}  batch {one.rows:3}  {one.milliseconds:8.1f} ms  {one.rate:8.1f} images/s"
        )
    return measured


def _load(settings: Settings, manifest: Manifest, precision: Precision) -> "Model":
    import torch

    from app.backbones.model import Loading, Model
    from app.main import find_devices

    torch.set_num_threads(os.cpu_count() or 1)
    device = torch.device(find_devices(settings.devices)[0])
    chosen = manifest.model_copy(update={"precision": precision})
    return Model(chosen, device, Loading.by(settings))


def _advise(fp32: "list[Measured]", bf16: "list[Measured]", latency_ms: float | None) -> None:
    from app.engine.tuning import advise

    plain, low = advise(fp32, latency_ms), advise(bf16, latency_ms)
    if plain is None:
        print(f"\nNo batch is done within {latency_ms:g} ms.")
        return
    print(f"\nAPP_MAX_BATCH_SIZE={plain.rows}  # {plain.milliseconds:.0f} ms a batch at most")
    if low and low.rate > plain.rate:
        gain = low.rate / plain.rate
        print(
            f"APP_MAX_BATCH_SIZE={low.rows} APP_PRECISION=bf16  # instead: {gain:.2f} times as"
            " fast; on the self-check's pictures no score moved by more than 0.01"
        )
