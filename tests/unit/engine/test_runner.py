"""Numbers: equal to the closed form, and the same alone or in any company."""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from threading import Barrier, Event, Thread
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from torch import Tensor, fx, nn

from app.backbones.cut import Cutter
from app.backbones.model import Loading, Model
from app.backbones.registry import Registry
from app.engine.fast import run
from app.engine.runner import Runner
from app.engine.worker import execute
from app.errors import CamserveError, InvalidOption, ModelReplaced, NonFiniteOutput
from app.explain.registry import methods
from app.types import Job, JobResult
from tests.unit.conftest import make_manifest

SIDE = 96


PICTURED: dict[str, Any] = {"num_classes": 10, "preprocess": {"resize": SIDE, "crop": SIDE}}


@pytest.fixture(scope="module")
def model() -> Model:
    return Model(make_manifest(**PICTURED), torch.device("cpu"))


@pytest.fixture(scope="module")
def pictures() -> NDArray[Any]:
    return np.random.default_rng(0).integers(0, 256, (32, SIDE, SIDE, 3), np.uint8)


def make_job(
    pixels: NDArray[Any],
    *classes: int | str,
    layers: tuple[str, ...] = (),
    methods: tuple[str, ...] = ("gradcam",),
    needs: tuple[str, ...] = (),
) -> Job:
    return Job(
        model="m",
        version="v",
        pixels=pixels,
        deadline=0,
        classes=classes,
        methods=methods if classes else (),
        layers=layers,
        needs=needs,
    )


def results(model: Model, jobs: list[Job]) -> list[JobResult]:
    outcomes = run(model, jobs)
    assert all(isinstance(outcome, JobResult) for outcome in outcomes)
    return [outcome for outcome in outcomes if isinstance(outcome, JobResult)]


def assert_same(one: JobResult, other: JobResult) -> None:
    np.testing.assert_allclose(one.logits, other.logits, rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(one.scores, other.scores, rtol=1e-5, atol=1e-6)
    assert [m.index for m in one.maps] == [m.index for m in other.maps]
    for a, b in zip(one.maps, other.maps, strict=True):
        scale = float(np.abs(b.values).max())
        np.testing.assert_allclose(a.values, b.values, atol=1e-5 * scale, rtol=0)


class Traced(nn.Module):
    """Lets another thread go on in the middle of its being traced."""

    def __init__(self, traced: Event, other_ran: Event) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3)
        self._events = traced, other_ran

    def forward(self, x: Tensor) -> Tensor:
        if isinstance(x, fx.Proxy):
            traced, other_ran = self._events
            traced.set()
            other_ran.wait(0.5)
        logits: Tensor = self.conv(x).mean(dim=(2, 3))
        return logits


def test_a_model_answers_while_another_one_is_being_traced(
    model: Model, pictures: NDArray[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    runner = Runner(Registry({}, torch.device("cpu")), 1)
    monkeypatch.setattr(runner._registry, "get", lambda _name, _version: model)
    traced, ran = Event(), Event()
    outcomes: list[JobResult | CamserveError] = []

    def run_meanwhile() -> None:
        traced.wait(30)
        outcomes.extend(execute(runner.run, [make_job(pictures[0], "top1")]))
        ran.set()

    other = Thread(target=run_meanwhile)
    other.start()
    Cutter(Traced(traced, ran).requires_grad_(False), torch.randn(1, 3, 8, 8))
    other.join(30)
    assert [type(outcome) for outcome in outcomes] == [JobResult]


@pytest.mark.parametrize("architecture", ["resnet18", "mobilenet_v3_small"])
def test_two_batches_pass_through_a_model_at_once(
    architecture: str, pictures: NDArray[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    model = Model(make_manifest(architecture=architecture, **PICTURED), torch.device("cpu"))
    trunk, both = model.cut().forward_features.forward, Barrier(2)

    def meet(x: Tensor) -> Tensor:
        both.wait(30)
        features: Tensor = trunk(x)
        return features

    monkeypatch.setattr(model.cut().forward_features, "forward", meet)
    with ThreadPoolExecutor(2) as drivers:
        jobs = [make_job(picture, "top1") for picture in pictures[:2]]
        outcomes = list(drivers.map(lambda job: run(model, [job]), jobs))
    assert [type(outcome) for (outcome,) in outcomes] == [JobResult, JobResult]


def test_light_steps_take_one_core_and_the_network_all(
    model: Model, pictures: NDArray[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    used: dict[str, int] = {}

    def noting(what: str, function: Callable[..., Tensor]) -> Callable[..., Tensor]:
        def noted(*args: Tensor, **kwargs: Tensor) -> Tensor:
            used[what] = torch.get_num_threads()
            return function(*args, **kwargs)

        return noted

    trunk, gradcam = model.cut().forward_features, methods()["gradcam"]
    monkeypatch.setattr(trunk, "forward", noting("network", trunk.forward))
    map_of = replace(gradcam, compute=noting("map", gradcam.compute))
    monkeypatch.setitem(methods(), "gradcam", map_of)
    before = torch.get_num_threads()
    torch.set_num_threads(3)
    try:
        results(model, [make_job(pictures[0], "top1")])
        assert used == {"network": 3, "map": 1}
        assert torch.get_num_threads() == 3
    finally:
        torch.set_num_threads(before)


def test_a_picture_alone_is_left_as_it_is(model: Model, pictures: NDArray[Any]) -> None:
    picture = pictures[0].copy()
    model.inputs([picture])
    np.testing.assert_array_equal(picture, pictures[0])


def test_gradcam_is_the_closed_form_on_pooling_and_a_linear_head(
    model: Model,
    pictures: NDArray[Any],
) -> None:
    (result,) = results(model, [make_job(pictures[0], 3)])
    with torch.no_grad():
        maps = model.cut().forward_features(model.inputs([pictures[0]]))  # [1, C, h, w]
    weight = model.module.get_submodule("fc").weight
    assert isinstance(weight, torch.Tensor)
    expected = torch.einsum("c,nchw->nhw", weight[3], maps)[0] / maps[0, 0].numel()
    scale = float(expected.abs().max())
    np.testing.assert_allclose(result.maps[0].values, expected.numpy(), atol=1e-5 * scale, rtol=0)


def test_the_map_of_a_class_sums_to_its_logit_less_the_bias(
    model: Model,
    pictures: NDArray[Any],
) -> None:
    (result,) = results(model, [make_job(pictures[1], *range(10))])
    bias = model.module.get_submodule("fc").bias
    assert isinstance(bias, torch.Tensor)
    for class_map in result.maps:
        expected = result.logits[class_map.index] - float(bias[class_map.index])
        assert float(class_map.values.sum()) == pytest.approx(expected, abs=1e-6)


def test_scores_are_the_softmax_of_the_logits(
    model: Model,
    pictures: NDArray[Any],
) -> None:
    (result,) = results(model, [make_job(pictures[0])])
    exponentials = np.exp(result.logits - result.logits.max())
    np.testing.assert_allclose(result.scores, exponentials / exponentials.sum(), rtol=1e-5)
    assert result.maps == ()


def test_an_image_among_31_others_gets_the_answer_that_it_gets_alone(
    model: Model,
    pictures: NDArray[Any],
) -> None:
    jobs = [make_job(pixels, "top2") for pixels in pictures]
    together = results(model, jobs)
    assert len(together) == 32
    for job, result in zip(jobs, together, strict=True):
        assert_same(result, results(model, [job])[0])


@settings(max_examples=20, deadline=None)
@given(data=st.data())
def test_mixed_rows_in_any_order_do_not_change_each_other(
    data: st.DataObject,
    model: Model,
    pictures: NDArray[Any],
) -> None:
    needs = data.draw(st.sampled_from([(), ("input_gradients", "inputs")]))
    known = [
        name
        for name, method in methods().items()
        if set(method.info.needs) <= {"activations", "gradients", *needs}
    ]
    entries: list[int | str] = [0, 4, 9, "top1", "top3"]
    classes = st.lists(st.sampled_from(entries), max_size=3, unique=True)
    names = st.lists(st.sampled_from(known), min_size=1, max_size=3, unique=True)
    wishes = data.draw(st.lists(st.tuples(classes, names), min_size=1, max_size=6))
    jobs = [
        make_job(pixels, *wanted, methods=tuple(by), needs=needs)
        for pixels, (wanted, by) in zip(pictures, wishes, strict=False)
    ]
    for job, result in zip(jobs, results(model, jobs), strict=True):
        assert_same(result, results(model, [job])[0])


def test_several_methods_of_several_classes_come_method_by_method(
    model: Model, pictures: NDArray[Any]
) -> None:
    both = ("finercam", "gradcam")
    (result,) = results(model, [make_job(pictures[0], 3, 5, methods=both)])
    assert [(m.method, m.index) for m in result.maps] == [
        ("finercam", 3), ("finercam", 5), ("gradcam", 3), ("gradcam", 5),
    ]  # fmt: skip
    by_hand = result.maps[2].values - 0.6 * sum(
        results(model, [make_job(pictures[0], rival)])[0].maps[0].values / 3
        for rival in nearest(result.logits, 3)
    )
    np.testing.assert_allclose(result.maps[0].values, by_hand, atol=1e-5)


def test_the_gradient_of_a_linear_head_is_that_of_autograd(
    model: Model, pictures: NDArray[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    by = ("gradcam", "gradcam_plusplus", "layercam", "finercam", "eigengradcam")
    jobs = [make_job(pixels, 3, "top2", methods=by) for pixels in pictures[:3]]
    closed = results(model, [*jobs, make_job(pictures[3])])
    assert model.cut().linear is not None
    assert model.cut("stage4").linear is None
    monkeypatch.setitem(vars(model.cut()), "linear", None)
    for ours, expected in zip(closed, results(model, [*jobs, make_job(pictures[3])]), strict=True):
        assert_same(ours, expected)


@pytest.mark.parametrize("layers", [(), ("features.8",)])
@pytest.mark.parametrize("architecture", ["mobilenet_v3_small", "vgg11"])
def test_the_gradient_behind_a_last_linear_layer_is_that_of_autograd(
    pictures: NDArray[Any],
    monkeypatch: pytest.MonkeyPatch,
    architecture: str,
    layers: tuple[str, ...],
) -> None:
    net = Model(make_manifest(**PICTURED, architecture=architecture), torch.device("cpu"))
    by = ("gradcam", "gradcam_plusplus", "finercam")
    jobs = [make_job(pixels, 3, "top2", methods=by, layers=layers) for pixels in pictures[:3]]
    jobs.append(make_job(pictures[3], layers=layers))
    ours = results(net, jobs)
    assert net.cut(*layers).linear is None
    assert net.cut(*layers).neck is not None
    monkeypatch.setitem(vars(net.cut(*layers)), "neck", None)
    for found, expected in zip(ours, results(net, jobs), strict=True):
        assert_same(found, expected)


def nearest(logits: NDArray[np.float32], index: int) -> list[int]:
    ranking = np.argsort(np.abs(logits - logits[index]), kind="stable").tolist()
    return [other for other in ranking if other != index][:3]


def test_several_layers_are_fused_into_the_finest_map(model: Model, pictures: NDArray[Any]) -> None:
    job = make_job(pictures[0], 3, layers=("conv5", "stage3", "stage2"), methods=("layercam",))
    (found,) = results(model, [job])[0].maps
    assert found.layer == "conv5,stage3,stage2"
    single = results(model, [replace(job, layers=("stage2",))])[0].maps[0]
    assert found.values.shape == single.values.shape


def test_methods_that_look_at_the_picture_have_its_size(
    model: Model, pictures: NDArray[Any]
) -> None:
    needs = ("input_gradients", "inputs")
    job = make_job(pictures[0], 3, methods=("saliency", "gradcam"), needs=needs)
    saliency, gradcam = results(model, [job])[0].maps
    assert (saliency.layer, saliency.values.shape) == ("input", (SIDE, SIDE))
    assert (gradcam.layer, gradcam.values.shape) == ("conv5", (3, 3))


def test_a_class_asked_for_twice_is_explained_once_in_the_order_of_asking(
    model: Model,
    pictures: NDArray[Any],
) -> None:
    (result,) = results(model, [make_job(pictures[0], 4, "top2", 4)])
    best = np.argsort(-result.logits)[:2].tolist()
    assert [m.index for m in result.maps] == list(dict.fromkeys([4, *best]))


def test_a_layer_of_its_own_is_named_in_the_map(
    model: Model,
    pictures: NDArray[Any],
) -> None:
    (result,) = results(model, [make_job(pictures[0], 1, layers=("stage4",))])
    assert result.maps[0].layer == "stage4"
    assert result.maps[0].values.shape == (3, 3)


def test_an_unknown_layer_is_an_error_of_the_request(
    model: Model,
    pictures: NDArray[Any],
) -> None:
    with pytest.raises(InvalidOption, match="nowhere"):
        run(model, [make_job(pictures[0], 1, layers=("nowhere",))])


def test_a_row_with_numbers_that_are_not_finite_fails_alone(
    pictures: NDArray[Any],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    # Unfused, for oneDNN's ReLU makes 0 of NaN; no finite picture gives NaN in a float32 trunk.
    model = Model(make_manifest(**PICTURED), torch.device("cpu"), Loading(fused=False))
    good = results(model, [make_job(pictures[0], 1)])[0]
    normalize = model.inputs.normalize

    def spoil_second(stacked: torch.Tensor) -> torch.Tensor:
        batch = normalize(stacked)
        batch[1:] = float("nan")
        return batch

    monkeypatch.setattr(model.inputs, "normalize", spoil_second)
    first, second = run(model, [make_job(pictures[0], 1), make_job(pictures[1], 1)])
    assert isinstance(first, JobResult)
    assert_same(first, good)
    assert isinstance(second, NonFiniteOutput)


def test_nothing_is_left_behind_in_the_model(
    model: Model,
    pictures: NDArray[Any],
) -> None:
    run(model, [make_job(pictures[0], "top3")])
    for module in model.module.modules():
        assert not module._forward_hooks
        assert not module._backward_hooks
        assert not module.training
    for parameter in model.module.parameters():
        assert parameter.grad is None
        assert not parameter.requires_grad


def test_a_runner_serves_what_it_has_loaded_and_says_so(
    tmp_path: Path,
    pictures: NDArray[Any],
) -> None:
    registry = Registry({"m": make_manifest(tmp_path, **PICTURED)}, torch.device("cpu"))
    runner = Runner(registry, max_batch_size=2)
    changes = []
    names = registry.expect(["m", "nobody"])
    assert [(m.name, m.state) for m in runner.catalogue().models] == [
        ("m", "loading"),
        ("nobody", "failed"),
    ]
    runner.load(names, lambda: changes.append(runner.catalogue().models[0]))
    (ready,) = changes
    assert (ready.state, len(ready.labels)) == ("ready", 10)
    assert "gradcam" in ready.methods
    assert "chefer" not in ready.methods  # it has no attention
    job = make_job(pictures[0], "top1")
    with pytest.raises(ModelReplaced):
        runner.run([job])  # of another version
    outcome = runner.run([replace(job, version=str(ready.version))])[0]
    assert not isinstance(outcome, CamserveError)
