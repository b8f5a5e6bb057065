#!/usr/bin/env python3
"""Make the demo models and the sample pictures; everything is drawn and trained from fixed seeds.

scripts/train_demo.py shapes             draw the pictures, train, write models/, measure
scripts/train_demo.py shapes --evaluate  measure what is there, on fresh pictures
scripts/train_demo.py samples            write models/samples/ (needs the three models)
"""

import argparse
import hashlib
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))  # so that the script runs from a checkout that is not installed

from demo_data import INPUT, RECIPES, Recipe, make_pool  # noqa: E402

if TYPE_CHECKING:
    from torch import nn

MODELS = ROOT / "models"

MANIFEST = """\
name = "{name}"
description = "{description}"
family = "torchvision"
architecture = "{architecture}"
weights = "{name}.safetensors"
sha256 = "{sha256}"
num_classes = {classes}
labels = "{labels_file}"

[preprocess]
resize = {side}
crop = {side}
interpolation = "bilinear"
mean = {mean}
std = {std}
"""


def main() -> None:
    """Read the command line and do what it says; torch is imported only from here on."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=_Verbatim)
    parser.add_argument("what", choices=[*RECIPES, "samples"])
    parser.add_argument("--evaluate", action="store_true", help="only measure")
    # Two threads that wait for each other crawl where a third program wants one of two cores.
    parser.add_argument("--threads", type=int, default=2, help="for training (1 on a busy machine)")
    options = parser.parse_args()
    if options.what == "samples":
        _write_samples()
        return
    if not options.evaluate:
        _make(RECIPES[options.what], options.threads)
    _report(options.what)


_Verbatim = argparse.RawDescriptionHelpFormatter


def _make(recipe: Recipe, threads: int) -> None:
    from demo_network import train
    from demo_transformer import train_transformer

    began = time.perf_counter()
    pictures, targets = make_pool(recipe, workers=threads)
    print(f"{recipe.name}: drew {recipe.pictures} pictures in {_since(began)}", flush=True)
    course = train if recipe.stages else train_transformer
    network = course(recipe, pictures, targets, threads)
    print(f"{recipe.name}: drawn and trained in {_since(began)}", flush=True)
    _publish(recipe, network)


def _publish(recipe: Recipe, network: "nn.Module") -> None:
    """Write weights, labels and the manifest that names both."""
    from demo_network import MEAN, STD, save

    weights = MODELS / f"{recipe.name}.safetensors"
    save(network, weights)
    labels = MODELS / recipe.labels_file
    labels.parent.mkdir(exist_ok=True)
    labels.write_text("".join(f"{label}\n" for label in recipe.labels))
    manifest = MANIFEST.format(
        name=recipe.name,
        description=recipe.description,
        architecture=recipe.architecture,
        sha256=hashlib.sha256(weights.read_bytes()).hexdigest(),
        classes=len(recipe.labels),
        labels_file=recipe.labels_file,
        side=INPUT,
        mean=list(MEAN),
        std=list(STD),
    )
    if not recipe.stages:
        manifest = _of_transformer(manifest)
    (MODELS / f"{recipe.name}.toml").write_text(manifest)


def _of_transformer(manifest: str) -> str:
    """The manifest's beginning, with the transformer's own size in place of [preprocess]."""
    from demo_transformer import ARGUMENTS, LAYER

    head, _, _ = manifest.partition("\n[preprocess]")
    plain = {name: value for name, value in ARGUMENTS.items() if name != "conv_stem_configs"}
    lines = [f"{name} = {value}" for name, value in plain.items()]
    stem = [
        "  { " + ", ".join(f"{name} = {value}" for name, value in layer.items()) + " },"
        for layer in ARGUMENTS["conv_stem_configs"]
    ]
    table = [*lines, "conv_stem_configs = [", *stem, "]"]
    return f'{head}layer = "{LAYER}"\n\n[arguments]\n' + "\n".join(table) + "\n"


def _report(name: str) -> None:
    from demo_figures import figures

    size = (MODELS / f"{name}.safetensors").stat().st_size
    print(f"{name}: {size / 2**20:.2f} MiB")
    for what, value in figures(name, MODELS).items():
        print(f"  {what:<40}{value:.3f}")


def _write_samples() -> None:
    from demo_samples import write_samples

    write_samples(MODELS)


def _since(began: float) -> str:
    return f"{time.perf_counter() - began:.0f} s"


if __name__ == "__main__":
    main()
