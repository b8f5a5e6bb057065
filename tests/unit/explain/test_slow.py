"""Methods of many passes: equal to their papers' plain loops and to captum, bounded, repeatable."""

import itertools
import math
import time
from collections.abc import Callable
from functools import cache
from pathlib import Path

import captum.attr as captum
import numpy as np
import pytest
import pytorch_grad_cam as grad_cam
import torch
from captum._utils.models.linear_model import SkLearnRidge
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

from app.backbones.manifest import Manifest
from app.backbones.model import Model
from app.engine.fast import run
from app.engine.slow import run_slowly
from app.errors import CamserveError, DeadlineExceeded, InvalidOption
from app.explain import kernelshap, lime
from app.explain.registry import every_info, slow_methods
from app.explain.steps import Row
from app.explain.superpixels import hide, superpixels
from app.types import ClassMap, Job, JobResult, Progress
from tests.unit.conftest import build_model
from tests.unit.explain.test_parity import assert_close, calibrate

CLASS = 7
SIDE = 64
ALL = sorted(slow_methods())


@cache
def model(architecture: str = "resnet18", side: int = SIDE) -> Model:
    made = build_model(architecture, side=side, num_classes=20)
    calibrate(made.module, side)
    return made


def picture(side: int = SIDE) -> NDArray[np.uint8]:
    """Blobs: superpixels of noise would be many."""
    coarse = np.random.default_rng(5).integers(0, 256, (8, 8, 3), np.uint8)
    return coarse.repeat(side // 8, axis=0).repeat(side // 8, axis=1)


def make_job(method: str, *classes: int, side: int = SIDE, **changes: object) -> Job:
    wishes: dict[str, object] = {
        "model": "m",
        "version": "v",
        "pixels": picture(side),
        "deadline": time.monotonic() + 600,
        "classes": classes or (CLASS,),
        "methods": (method,),
        "slow": True,
        "budget": 4096,
    }
    return Job(**{**wishes, **changes})  # type: ignore[arg-type]


def play(
    job: Job, of: Model, slice_rows: int = 8
) -> tuple[JobResult | CamserveError, list[Progress]]:
    steps, told = run_slowly(of, job, slice_rows), list[Progress]()
    while True:
        try:
            told.append(next(steps))
        except StopIteration as end:
            return end.value, told


def explain(job: Job, of: Model | None = None, slice_rows: int = 8) -> tuple[ClassMap, ...]:
    result, _ = play(job, of or model(), slice_rows)
    assert isinstance(result, JobResult), result
    return result.maps


def inputs(of: Model) -> tuple[Tensor, Tensor]:
    """The normalised picture, and the activations at the cut."""
    x = of.inputs([picture(of.preprocess.crop[0])])
    with torch.no_grad():
        return x, of.cut().forward_features(x)


@pytest.mark.parametrize("method", ALL)
def test_each_class_has_the_map_that_it_has_alone_whatever_the_size_of_a_pass(method: str) -> None:
    by_class = method in {"smoothgrad", "integrated_gradients"}  # their passes are a class's own
    both = explain(make_job(method, 3, CLASS, budget=101 if by_class else 60))
    assert [m.index for m in both] == [3, CLASS]
    (alone,) = explain(make_job(method, budget=51 if by_class else 60), slice_rows=5)
    assert_close(both[1].values, alone.values, 1e-4)


def test_scorecam_is_that_of_pytorch_grad_cam_but_for_its_corners(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def half_pixel(size: tuple[int, int]) -> nn.Module:
        return nn.Upsample(size=size, mode="bilinear", align_corners=False)

    monkeypatch.setattr(torch.nn, "UpsamplingBilinear2d", half_pixel)
    raw: list[NDArray[np.float32]] = []

    class Watched(grad_cam.ScoreCAM):  # type: ignore[misc]
        def get_cam_image(self, *args: object, **kwargs: object) -> NDArray[np.float32]:
            raw.append(super().get_cam_image(*args, **kwargs))
            return raw[0]

    x, _ = inputs(model())
    target = [grad_cam.utils.model_targets.ClassifierOutputTarget(CLASS)]
    with Watched(model().module, [model().module.get_submodule("layer4")]) as cam:
        cam(x, target)
    (ours,) = explain(make_job("scorecam"))
    assert_close(ours.values, raw[0][0])


def test_ablationcam_on_a_linear_head_is_what_its_passes_would_measure(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    (closed,), told = explain(make_job("ablationcam")), play(make_job("ablationcam"), model())[1]
    assert told == []
    monkeypatch.setitem(vars(model().cut()), "linear", None)
    (measured,) = explain(make_job("ablationcam"))
    assert_close(closed.values, measured.values)


@pytest.mark.parametrize("architecture", ["mobilenet_v3_small", "swin_t"])
def test_ablationcam_silences_each_channel_in_turn(architecture: str) -> None:
    of = model(architecture)
    x, start = inputs(of)
    cut = of.cut()
    maps = cut.grid.maps(start)[0]
    weights = []
    with torch.no_grad():
        logit = cut.forward_head(start)[0][0, CLASS]
        for channel in range(len(maps)):
            ablated = start.clone()
            cut.grid.maps(ablated)[0, channel] = 0
            weights.append((logit - cut.forward_head(ablated)[0][0, CLASS]) / logit.abs())
    expected = torch.einsum("c,chw->hw", torch.stack(weights), maps)
    (ours,) = explain(make_job("ablationcam"), of)
    assert_close(ours.values, expected.numpy())
    assert len(x) == 1


def test_ablationcam_at_a_layer_inside_a_block_says_what_is_missing() -> None:
    job = make_job("ablationcam", layers=("layer4.1.bn1",))
    result, _ = play(job, model())
    assert isinstance(result, InvalidOption)
    assert "layer4 is one" in result.detail


def test_occlusion_is_that_of_captum() -> None:
    of = model(side=224)
    x, _ = inputs(of)
    theirs = captum.Occlusion(of.module).attribute(
        x, sliding_window_shapes=(3, 32, 32), strides=(3, 16, 16), target=CLASS,
        perturbations_per_eval=16,
    )  # fmt: skip
    (ours,) = explain(make_job("occlusion", side=224), of, slice_rows=16)
    assert_close(ours.values, theirs[0, 0].numpy())


@pytest.mark.parametrize("budget", [4, 9, 32, 100])
def test_a_smaller_occlusion_still_covers_the_picture(budget: int) -> None:
    result, told = play(make_job("occlusion", budget=budget), model())
    assert isinstance(result, JobResult)
    assert told[-1].done <= budget + 1
    assert result.maps[0].flags == ("budget_exhausted",)


def test_integrated_gradients_are_those_of_captum_and_say_what_they_miss() -> None:
    x, _ = inputs(model())
    theirs, delta = captum.IntegratedGradients(model().module).attribute(
        x, target=CLASS, return_convergence_delta=True
    )
    (ours,) = explain(make_job("integrated_gradients"))
    assert_close(ours.values, theirs.sum(dim=1)[0].detach().numpy())
    assert ours.residual == pytest.approx(float(delta), abs=1e-3)


def test_lime_is_that_of_captum_on_the_same_samples() -> None:
    x, _ = inputs(model())
    segments = superpixels(picture())
    samples = lime.draw(int(segments.max()) + 1, 200, seed=0)
    queue = iter(samples)

    def similarity(_original: Tensor, _perturbed: Tensor, sample: Tensor, **_: object) -> Tensor:
        return torch.exp(-(((1 - sample.mean().sqrt()) / 0.25) ** 2))

    method = captum.LimeBase(
        lambda rows: torch.softmax(model().module(rows), dim=1)[:, CLASS],
        interpretable_model=SkLearnRidge(alpha=1.0),
        similarity_func=similarity,
        perturb_func=lambda *_args, **_kwargs: next(queue)[None],
        perturb_interpretable_space=True,
        from_interp_rep_transform=lambda sample, *_args, **_kwargs: hide(x, segments, sample),
        to_interp_rep_transform=None,
    )
    with torch.no_grad():
        theirs = method.attribute(x, n_samples=200)[0]
    (ours,) = explain(make_job("lime", budget=200))
    assert_close(ours.values, theirs[segments].numpy(), 1e-3)


def exact_shapley(value: Callable[[frozenset[int]], float], players: int) -> list[float]:
    """The definition: the mean gain over all orders."""
    gains = [0.0] * players
    for order in itertools.permutations(range(players)):
        for place, player in enumerate(order):
            before = frozenset(order[:place])
            gains[player] += value(before | {player}) - value(before)
    return [gain / math.factorial(players) for gain in gains]


def test_kernelshap_of_all_coalitions_is_the_shapley_value() -> None:
    players = 5
    worth = dict(
        zip(
            (frozenset(s) for k in range(players + 1)
             for s in itertools.combinations(range(players), k)),
            np.random.default_rng(1).normal(size=2**players),
            strict=True,
        )
    )  # fmt: skip
    inner = [s for s in worth if 0 < len(s) < players]
    ordered = [frozenset(range(players)), frozenset[int](), *inner]
    kept = torch.tensor([[float(p in s) for p in range(players)] for s in ordered])
    logits = torch.tensor([[worth[s]] for s in ordered], dtype=torch.float64)
    kernel = [
        (players - 1) / (math.comb(players, len(s)) * len(s) * (players - len(s))) for s in inner
    ]
    ours = kernelshap.shapley(kept.double(), logits, torch.tensor(kernel))
    assert ours[:, 0].tolist() == pytest.approx(exact_shapley(worth.__getitem__, players))


def test_kernelshap_values_sum_to_the_difference_of_the_logits() -> None:
    x, _ = inputs(model())
    segments = superpixels(picture())
    (ours,) = explain(make_job("kernelshap", budget=120))
    none = hide(x, segments, torch.zeros(1, int(segments.max()) + 1))
    with torch.no_grad():
        difference = (model().module(x) - model().module(none))[0, CLASS]
    first_pixels = [
        int((segments == s).flatten().nonzero()[0]) for s in range(int(segments.max()) + 1)
    ]
    assert ours.values.flatten()[first_pixels].sum() == pytest.approx(float(difference), abs=1e-3)


def test_hidden_superpixels_are_grey_and_the_others_as_they_were() -> None:
    x = torch.randn(1, 3, 4, 4, generator=torch.Generator().manual_seed(0))
    segments = torch.tensor([[0, 0, 1, 1]] * 4)
    hidden, shown = hide(x, segments, torch.tensor([[0.0, 1.0], [1.0, 1.0]]))
    torch.testing.assert_close(shown, x[0])
    torch.testing.assert_close(hidden[:, :, 2:], x[0, :, :, 2:])
    assert not hidden[:, :, :2].any()


def test_smoothgrad_is_the_mean_gradient_of_noisy_pictures() -> None:
    x, _ = inputs(model())
    generator = torch.Generator().manual_seed(9)
    spread = 0.15 * float(x.max() - x.min())
    total = torch.zeros_like(x)
    for _ in range(25):
        noisy = (x + torch.randn(x.shape, generator=generator) * spread).requires_grad_()
        (gradient,) = torch.autograd.grad(model().module(noisy)[0, CLASS], noisy)
        total += gradient / 25
    (ours,) = explain(make_job("smoothgrad", seed=9))
    assert_close(ours.values, total.abs().amax(dim=1)[0].numpy())


def test_rise_finds_the_only_place_that_counts() -> None:
    class Corner(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            bright = functional.adaptive_avg_pool2d(x, 4)[:, 0, 0, 3]
            return torch.stack([(bright - 0.5) * 20, torch.zeros_like(bright)], dim=1)

    row_of = slow_methods()["rise"].explain(
        make_row(torch.ones(1, 3, 32, 32), classes=[0], budget=400)
    )
    answer: Tensor | None = None
    try:
        while True:
            answer = Corner()(row_of.send(answer).rows)
    except StopIteration as end:
        found = end.value.maps[0]
    y, x = divmod(int(found.argmax()), 32)
    assert y < 10
    assert x > 22


def make_row(x: Tensor, classes: list[int], budget: int) -> Row:
    return Row(
        pixels=np.zeros((32, 32, 3), np.uint8), x=x, activations=x, logits=torch.zeros(2),
        scores=lambda logits: logits.softmax(dim=1),
        linear=None, ablate=None, class_idx=classes, seed=0, budget=budget, slice=16,
    )  # fmt: skip


@pytest.mark.parametrize("method", ["lime", "kernelshap", "rise", "smoothgrad"])
def test_what_is_drawn_at_random_is_the_same_for_the_same_seed(method: str) -> None:
    one, same, other = (
        explain(make_job(method, budget=40, seed=seed))[0].values for seed in (1, 1, 2)
    )
    np.testing.assert_array_equal(one, same)
    assert np.abs(one - other).max() > 0


@pytest.mark.parametrize("method", [m for m in ALL if m != "ablationcam"])
def test_a_budget_is_never_passed_and_is_told(method: str) -> None:
    result, told = play(make_job(method, 3, CLASS, budget=24), model())
    assert isinstance(result, JobResult)
    assert told[-1].done <= told[-1].total <= 25
    for found in result.maps:
        assert found.flags == ("budget_exhausted",)
        assert np.isfinite(found.values).all()


def test_several_slow_methods_share_the_budget_and_come_in_their_order() -> None:
    job = make_job("", methods=("occlusion", "gradcam", "lime"), budget=64)
    result, told = play(job, model())
    assert isinstance(result, JobResult)
    assert [m.method for m in result.maps] == ["occlusion", "gradcam", "lime"]
    assert told[-1].total <= 65


@pytest.mark.parametrize("method", ["scorecam", "lime", "kernelshap", "rise", "smoothgrad"])
def test_a_deadline_returns_the_best_so_far(method: str) -> None:
    result, told = play(make_job(method, deadline=time.monotonic() + 0.01), model())
    assert isinstance(result, JobResult), result
    assert len(told) == 1
    assert result.maps[0].flags == ("budget_exhausted",)


@pytest.mark.parametrize("method", ["occlusion", "integrated_gradients"])
def test_a_deadline_that_leaves_nothing_to_show_says_so(method: str) -> None:
    result, _ = play(make_job(method, deadline=time.monotonic() + 0.01), model())
    assert isinstance(result, DeadlineExceeded)


def test_a_budget_that_leaves_nothing_to_show_says_so() -> None:
    result, _ = play(make_job("integrated_gradients", budget=1), model())
    assert isinstance(result, InvalidOption)


def test_a_slow_method_beside_layercam_of_several_layers_is_answered() -> None:
    job = make_job("", methods=("layercam", "lime"), layers=("layer4", "layer3"), budget=16)
    result, _ = play(job, model())
    assert isinstance(result, JobResult), result
    assert [(m.method, m.layer) for m in result.maps] == [
        ("layercam", "layer4,layer3"), ("lime", "input"),
    ]  # fmt: skip


@pytest.mark.parametrize(
    "name", sorted(name for name, info in every_info().items() if "attention" not in info.needs)
)
def test_every_method_of_a_cnn_explains_a_picture_that_is_not_square(name: str) -> None:
    info = every_info()[name]
    of = not_square()
    needs = tuple(sorted(set(info.needs) - {"activations", "gradients"}))
    pixels = np.random.default_rng(0).integers(0, 256, (96, 64, 3), np.uint8)
    job = make_job(name, 3, 5, pixels=pixels, budget=16, needs=needs, slow=info.lane == "slow")
    result = play(job, of)[0] if job.slow else run(of, [job])[0]
    assert isinstance(result, JobResult), result
    for found in result.maps:
        assert found.values.shape in {(3, 2), (96, 64)}
        assert np.isfinite(found.values).all()


@cache
def not_square() -> Model:
    manifest = Manifest.model_validate(
        {
            "path": Path("unused.toml"),
            "name": "test",
            "family": "torchvision",
            "architecture": "resnet18",
            "weights": "random",
            "num_classes": 10,
            "preprocess": {"resize": [96, 64], "crop": [96, 64]},
        }
    )
    return Model(manifest, torch.device("cpu"))


@pytest.mark.parametrize(("architecture", "side"), [("resnet18", SIDE), ("vit_b_16", 224)])
def test_no_method_leaves_a_hook_or_a_gradient_behind(architecture: str, side: int) -> None:
    of = build_model(architecture, side=side, num_classes=20)
    for name, info in every_info().items():
        only_here = "attention" in info.needs or architecture == "resnet18"
        if only_here and of.provides.issuperset(info.needs):
            needs = tuple(sorted(set(info.needs) - {"activations", "gradients"}))
            job = make_job(name, side=side, budget=8, needs=needs, slow=info.lane == "slow")
            result = play(job, of)[0] if job.slow else run(of, [job])[0]
            assert isinstance(result, JobResult), (name, result)
    for module in of.module.modules():
        assert not module._forward_hooks
        assert not module._forward_pre_hooks
        assert not module._backward_hooks
    for parameter in of.module.parameters():
        assert parameter.grad is None
        assert not parameter.requires_grad


def test_channels_without_relief_have_a_scorecam_too() -> None:
    flat = torch.ones(1, 4, 3, 3)
    steps = slow_methods()["scorecam"].explain(make_row(flat, classes=[0], budget=10))
    assert len(next(steps).rows) == 1
    with pytest.raises(StopIteration) as end:
        steps.send(torch.zeros(1, 2))
    assert_close(end.value.value.maps[0].numpy(), np.ones((3, 3), np.float32))
