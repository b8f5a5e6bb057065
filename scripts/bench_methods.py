"""What explanations cost on this machine: beside a plain forward pass, and beside other libraries.

Run as: .venv/bin/python scripts/bench_methods.py [--pairs 200]

ResNet-50 with random weights (speed does not depend on them), float32. Everything is measured in
alternating pairs within one run; printed are the median of the ratios and its bootstrap interval.
"""

import argparse
import os
import platform
import sys
import time
from collections.abc import Callable
from pathlib import Path

import captum.attr as captum
import numpy as np
import pytorch_grad_cam as grad_cam
import torch
from captum._utils.models.linear_model import SkLearnRidge

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT))

from app.backbones.manifest import Manifest  # noqa: E402 - run from anywhere
from app.backbones.model import Model  # noqa: E402
from app.engine.fast import run  # noqa: E402
from app.engine.slow import run_slowly  # noqa: E402
from app.explain.superpixels import superpixels  # noqa: E402
from app.types import Job, Pixels  # noqa: E402

CLASS = 281
SLICE = 8  # rows in a pass, for every library


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--pairs", type=int, default=200, help="of the fast methods")
    parser.add_argument("--slow-pairs", type=int, default=3, help="of the slow ones")
    arguments = parser.parse_args()
    cores = os.cpu_count()
    torch.set_num_threads(cores or 1)
    print(f"{platform.machine()}, {cores} cores, torch {torch.__version__}, ResNet-50, float32\n")
    model = make_model()
    for rows in (1, 8):
        beside_forward(model, rows, arguments.pairs)
    scorecam(model, arguments.slow_pairs)
    lime(model, arguments.slow_pairs)


def make_model() -> Model:
    manifest = Manifest.model_validate(
        {"path": ROOT / "x.toml", "name": "x", "family": "torchvision",
         "architecture": "resnet50", "weights": "random"}
    )  # fmt: skip
    return Model(manifest, torch.device("cpu"))


def picture(seed: int = 0) -> Pixels:
    coarse = np.random.default_rng(seed).integers(0, 256, (14, 14, 3), np.uint8)
    return coarse.repeat(16, axis=0).repeat(16, axis=1)


def make_job(pixels: Pixels, *classes: int | str, methods: tuple[str, ...] = ()) -> Job:
    return Job(
        model="", version="", pixels=pixels, deadline=time.monotonic() + 1e6,
        classes=classes, methods=methods or (("gradcam",) if classes else ()), budget=10**6,
    )  # fmt: skip


def beside_forward(model: Model, rows: int, pairs: int) -> None:
    """The same trunk and head, the same normalising of the same pictures, without gradients."""
    pixels = [picture(seed) for seed in range(rows)]
    cut = model.cut()

    def plain() -> None:
        with torch.no_grad():
            logits = cut.forward_head(cut.forward_features(model.normalize(pixels)))[0]
            torch.softmax(logits, dim=1).numpy()

    top1 = [make_job(p, "top1") for p in pixels]
    top5 = [make_job(p, "top5") for p in pixels]
    report(f"predict + Grad-CAM / forward, batch {rows}", lambda: run(model, top1), plain, pairs)
    report(f"predict + top-5 maps / forward, batch {rows}", lambda: run(model, top5), plain, pairs)


def scorecam(model: Model, pairs: int) -> None:
    x = model.normalize([picture()])
    target = [grad_cam.utils.model_targets.ClassifierOutputTarget(CLASS)]
    job = make_job(picture(), CLASS, methods=("scorecam",))
    with torch.no_grad():
        channels = model.cut().forward_features(x)
    for count in (64, channels.shape[1]):
        theirs = grad_cam.ScoreCAM(model.module, [model.module.get_submodule("layer4")])
        theirs.batch_size = SLICE
        weights = theirs.get_cam_weights

        def first(*args: object, count: int = count, weights: object = weights) -> object:
            *before, activations, gradients = args
            few = activations[:, :count]  # type: ignore[index]
            found = weights(*before, few, gradients)  # type: ignore[operator]
            padding = activations.shape[1] - count  # type: ignore[attr-defined]
            return torch.nn.functional.pad(found, (0, padding))

        theirs.get_cam_weights = first

        def by_them(theirs: object = theirs) -> None:
            theirs(x, target)  # type: ignore[operator]

        def by_us(count: int = count) -> None:
            spend(model, job, count)

        report(f"Score-CAM of {count} channels: grad-cam / ours", by_them, by_us, pairs)


def lime(model: Model, pairs: int) -> None:
    x = model.normalize([picture()])
    segments = superpixels(picture())
    job = make_job(picture(), CLASS, methods=("lime",))
    method = captum.Lime(
        lambda rows: torch.softmax(model.module(rows), dim=1)[:, CLASS],
        interpretable_model=SkLearnRidge(alpha=1.0),
    )

    def by_captum() -> None:
        with torch.no_grad():
            method.attribute(
                x, feature_mask=segments[None, None].expand(1, 3, -1, -1),
                n_samples=500, perturbations_per_eval=SLICE,
            )  # fmt: skip

    def by_us() -> None:
        spend(model, job, 500)

    report("LIME of 500 samples: captum / ours", by_captum, by_us, pairs)


def spend(model: Model, job: Job, budget: int) -> None:
    steps = run_slowly(model, _with_budget(job, budget), SLICE)
    for _ in steps:
        pass


def _with_budget(job: Job, budget: int) -> Job:
    from dataclasses import replace

    return replace(job, budget=budget, slow=True)


def report(
    what: str, first: Callable[[], object], second: Callable[[], object], pairs: int
) -> None:
    """The first's time over the second's."""
    first(), second()
    ratios = []
    for number in range(pairs):
        order = (first, second) if number % 2 else (second, first)
        seconds = {function: timed(function) for function in order}
        ratios.append(seconds[first] / seconds[second])
    low, high = bootstrap(ratios)
    print(f"{what:45} {np.median(ratios):6.3f}   [{low:.3f}, {high:.3f}], {pairs} pairs")


def timed(function: Callable[[], object]) -> float:
    started = time.perf_counter()
    function()
    return time.perf_counter() - started


def bootstrap(ratios: list[float]) -> tuple[float, float]:
    """A 95 % interval of the median."""
    drawn = np.random.default_rng(0).choice(ratios, (2000, len(ratios)))
    low, high = np.quantile(np.median(drawn, axis=1), (0.025, 0.975))
    return float(low), float(high)


if __name__ == "__main__":
    main()
