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
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import captum.attr as captum
import numpy as np
import pytorch_grad_cam as grad_cam
import torch
import torchvision
from captum._utils.models.linear_model import SkLearnRidge
from torch import Tensor, nn

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT))

from app.backbones.manifest import Manifest  # noqa: E402 - run from anywhere
from app.backbones.model import Model  # noqa: E402
from app.engine.fast import run  # noqa: E402
from app.engine.slow import finish, run_slowly  # noqa: E402
from app.explain.superpixels import superpixels  # noqa: E402
from app.types import Job, Pixels  # noqa: E402

CLASS = 281
SLICE = 4  # rows in a pass, for every library


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
            logits = cut.forward_head(cut.forward_features(model.inputs(pixels)))[0]
            torch.softmax(logits, dim=1).numpy()

    top1 = [make_job(p, "top1") for p in pixels]
    top5 = [make_job(p, "top5") for p in pixels]
    report(f"predict + Grad-CAM / forward, batch {rows}", lambda: run(model, top1), plain, pairs)
    report(f"predict + top-5 maps / forward, batch {rows}", lambda: run(model, top5), plain, pairs)


def scorecam(model: Model, pairs: int) -> None:
    """grad-cam on torchvision's model as it comes, with its default batch of 16, and with ours."""
    module = plain_module()
    x = model.inputs([picture()]).contiguous()
    target = [grad_cam.utils.model_targets.ClassifierOutputTarget(CLASS)]
    job = make_job(picture(), CLASS, methods=("scorecam",))
    for count, batch, times in ((64, 16, pairs), (64, SLICE, pairs), (2048, 16, 1)):
        theirs: Any = FewChannels(module, [module.get_submodule("layer4")])
        theirs.count, theirs.batch_size = count, batch
        report(
            f"Score-CAM, {count} channels: grad-cam (batch {batch}) / ours",
            partial(theirs, x, target),
            partial(spend, model, job, count),
            times,
        )


class FewChannels(grad_cam.ScoreCAM):  # type: ignore[misc]
    """Weighs the first channels alone."""

    count = 0

    def get_cam_weights(
        self, x: Tensor, layer: object, target: object, activations: Pixels, gradients: object
    ) -> Pixels:
        few = super().get_cam_weights(x, layer, target, activations[:, : self.count], gradients)
        return np.pad(few, ((0, 0), (0, activations.shape[1] - self.count)))


def lime(model: Model, pairs: int) -> None:
    """Captum on torchvision's model as it comes, picture by picture as by default, and as we do."""
    module = plain_module()
    x = model.inputs([picture()]).contiguous()
    segments = superpixels(picture())[None, None].expand(1, 3, -1, -1)
    job = make_job(picture(), CLASS, methods=("lime",))
    method = captum.Lime(
        lambda rows: torch.softmax(module(rows), dim=1)[:, CLASS],
        interpretable_model=SkLearnRidge(alpha=1.0),
    )
    for batch in (1, SLICE):
        ask = partial(
            method.attribute, x, feature_mask=segments, n_samples=500, perturbations_per_eval=batch
        )
        report(
            f"LIME, 500 samples: captum (batch {batch}) / ours",
            torch.no_grad()(ask),
            partial(spend, model, job, 500),
            pairs,
        )


def plain_module() -> nn.Module:
    """As torchvision builds it: what a user of these libraries has."""
    module: nn.Module = torchvision.models.resnet50(weights=None)
    return module.eval().requires_grad_(requires_grad=False)


def spend(model: Model, job: Job, budget: int) -> None:
    finish(run_slowly(model, _with_budget(job, budget), SLICE))


def _with_budget(job: Job, budget: int) -> Job:
    return replace(job, budget=budget, slow=True)


def report(
    what: str, first: Callable[[], object], second: Callable[[], object], pairs: int
) -> None:
    """The first's time over the second's."""
    if pairs > 1:  # warm up
        first(), second()
    ratios = []
    for number in range(pairs):
        order = (first, second) if number % 2 else (second, first)
        seconds = {function: timed(function) for function in order}
        ratios.append(seconds[first] / seconds[second])
    low, high = bootstrap(ratios)
    print(f"{what:52} {np.median(ratios):6.3f}   [{low:.3f}, {high:.3f}], {pairs} pairs")


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
