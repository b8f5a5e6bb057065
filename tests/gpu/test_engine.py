"""A GPU answers as the processor does: the same scores and maps, whatever runs beside them."""

import subprocess
import sys
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from app.backbones.captured import Captured, _several, sizes
from app.backbones.manifest import Manifest
from app.backbones.memory import give_back
from app.backbones.model import Loading, Model
from app.backbones.registry import Registry
from app.engine.batching import Entry
from app.engine.device import Device
from app.engine.fast import run
from app.engine.runner import Runner
from app.engine.slow import finish, run_slowly
from app.engine.worker import advance
from app.explain.registry import every_info, slow_methods
from app.types import Job, JobResult, Progress
from tests.unit.conftest import make_manifest

SIDE = 128
ROWS = 12
GPU = torch.device("cuda:0")
CPU = torch.device("cpu")
ARCHITECTURES = (
    "resnet18", "resnext50_32x4d", "mobilenet_v3_small", "efficientnet_b0", "densenet121",
    "googlenet", "regnet_y_400mf", "convnext_tiny", "swin_t", "vit_b_16",
)  # fmt: skip


# Where two numbers are as good as equal, rounding decides: a sign, or a ReLU's side, at a pixel.
UNSTABLE = {
    "eigencam", "saliency", "input_x_gradient", "guided_backprop", "guided_gradcam", "smoothgrad",
}  # fmt: skip


def manifest(architecture: str = "resnet18", **keys: Any) -> Manifest:
    side = 224 if architecture.startswith("vit") else SIDE
    preprocess = {"resize": side, "crop": side}
    return make_manifest(architecture=architecture, num_classes=10, preprocess=preprocess, **keys)


def make_model(device: torch.device, architecture: str = "resnet18", **keys: object) -> Model:
    loading = Loading(rows=ROWS, allow_factories=True)
    return Model(manifest(architecture, **keys), device, loading)


@pytest.fixture(scope="module")
def on_gpu() -> Model:
    return make_model(GPU)


@pytest.fixture(scope="module")
def on_cpu() -> Model:
    return make_model(CPU)


def pictures(model: Model, rows: int, seed: int = 0) -> NDArray[Any]:
    rng = np.random.default_rng(seed)
    coarse = rng.integers(0, 256, (rows, 8, 8, 3), np.uint8)
    height, width = model.preprocess.crop
    return coarse.repeat(height // 8, axis=1).repeat(width // 8, axis=2)


def make_jobs(
    model: Model, rows: int, methods: tuple[str, ...] = ("gradcam",), seed: int = 0, **keys: Any
) -> list[Job]:
    job = Job(
        model="m", version="v", pixels=np.zeros((1, 1, 3), np.uint8), deadline=1e12,
        classes=("top2", 3), methods=methods, **keys,
    )  # fmt: skip
    return [replace(job, pixels=pixels) for pixels in pictures(model, rows, seed)]


def results(model: Model, jobs: Sequence[Job]) -> list[JobResult]:
    outcomes = run(model, jobs)
    for outcome in outcomes:
        assert isinstance(outcome, JobResult), outcome
    return [outcome for outcome in outcomes if isinstance(outcome, JobResult)]


def assert_same(one: JobResult, other: JobResult, tolerance: float = 1e-3) -> None:
    scale = float(np.abs(other.logits).max())
    np.testing.assert_allclose(one.logits, other.logits, rtol=0, atol=tolerance * scale)
    assert [(m.method, m.index) for m in one.maps] == [(m.method, m.index) for m in other.maps]
    for a, b in zip(one.maps, other.maps, strict=True):
        height = float(np.abs(b.values).max())
        np.testing.assert_allclose(
            a.values, b.values, rtol=0, atol=tolerance * height, err_msg=a.method
        )


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_scores_and_maps_are_those_of_the_processor(architecture: str) -> None:
    gpu, cpu = make_model(GPU, architecture), make_model(CPU, architecture)
    methods = tuple(
        name
        for name, info in every_info().items()
        if info.lane == "fast"
        and gpu.provides.issuperset(info.needs)
        and name not in UNSTABLE
        # On this one they are, or divide by, the rounding of sums that cancel, behind a LayerNorm.
        and not (architecture.startswith("vit") and name in {"hirescam", "xgradcam"})
    )
    jobs = make_jobs(gpu, 3, methods)
    for ours, theirs in zip(results(gpu, jobs), results(cpu, jobs), strict=True):
        assert_same(ours, theirs)


def test_float32_is_not_tf32(on_gpu: Model, on_cpu: Model) -> None:
    jobs = make_jobs(on_gpu, 4)
    for ours, theirs in zip(results(on_gpu, jobs), results(on_cpu, jobs), strict=True):
        assert_same(ours, theirs, 2e-5)


def test_every_number_of_rows_gives_what_a_row_gives_alone(on_gpu: Model) -> None:
    jobs = make_jobs(on_gpu, ROWS + 2)
    alone = [results(on_gpu, [job])[0] for job in jobs]
    for rows in range(ROWS + 2, 0, -1):  # larger ones first: their rows stay in the graphs' memory
        for ours, expected in zip(results(on_gpu, jobs[:rows]), alone, strict=False):
            assert_same(ours, expected, 2e-5)


def test_the_models_own_cut_is_captured_in_all_sizes(on_gpu: Model) -> None:
    assert sizes(ROWS) == [1, 2, 3, 4, 6, 8, 12]
    for captured in (on_gpu.cut().forward_features, on_gpu._classifier):
        assert isinstance(captured, Captured)
        assert [len(_several(outputs)[0]) for _, outputs in captured._graphs] == sizes(ROWS)


def test_batches_in_several_threads_do_not_mix(on_gpu: Model) -> None:
    device = Device(GPU)
    batches = [make_jobs(on_gpu, 1 + seed % ROWS, seed=seed) for seed in range(24)]
    expected = [results(on_gpu, jobs) for jobs in batches]

    def run_one(number: int) -> None:
        with device.turn():
            found = results(on_gpu, batches[number % len(batches)])
        for ours, theirs in zip(found, expected[number % len(batches)], strict=True):
            assert_same(ours, theirs, 1e-6)

    with ThreadPoolExecutor(3) as pool:
        list(pool.map(run_one, range(240)))


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
@pytest.mark.parametrize("architecture", ["resnet18", "convnext_tiny", "vit_b_16"])
def test_halved_precision_shows_the_same_places(architecture: str, precision: str) -> None:
    halved = make_model(GPU, architecture, precision=precision)
    full = make_model(GPU, architecture)
    jobs = [replace(job, classes=(3,)) for job in make_jobs(halved, 4)]
    for ours, theirs in zip(results(halved, jobs), results(full, jobs), strict=True):
        np.testing.assert_allclose(ours.scores, theirs.scores, atol=0.01)
        a, b = ours.maps[0].values.ravel(), theirs.maps[0].values.ravel()
        if b.std() > 1e-3 * np.abs(b).max():
            assert np.corrcoef(a, b)[0, 1] > 0.95


def test_layers_that_callers_choose_are_those_of_the_processor(
    on_gpu: Model, on_cpu: Model
) -> None:
    for layers in (("layer2",), ("layer3", "layer4"), ("layer3.0.bn1",)):
        method = "layercam" if len(layers) > 1 else "gradcam"
        jobs = make_jobs(on_gpu, 2, (method,), layers=layers)
        for ours, theirs in zip(results(on_gpu, jobs), results(on_cpu, jobs), strict=True):
            assert_same(ours, theirs)


@pytest.mark.parametrize("name", sorted(slow_methods()))
def test_methods_of_many_passes_are_those_of_the_processor(
    name: str, on_gpu: Model, on_cpu: Model
) -> None:
    (job,) = make_jobs(on_gpu, 1, (name,), slow=True, budget=64)
    ours, theirs = (finish(run_slowly(model, job, 4)) for model in (on_gpu, on_cpu))
    assert isinstance(ours, JobResult), ours
    assert isinstance(theirs, JobResult), theirs
    assert_same(ours, theirs, 2e-2)


def test_a_model_that_goes_gives_its_memory_back() -> None:
    def left() -> int:
        give_back(GPU)
        return torch.cuda.memory_allocated(GPU)

    def come_and_go() -> None:
        before = torch.cuda.memory_allocated(GPU)
        model = make_model(GPU, "mobilenet_v3_small")
        run(model, make_jobs(model, 3))
        assert torch.cuda.memory_allocated(GPU) > before

    come_and_go()  # the first one makes cuBLAS allocate what it keeps
    before = left()
    come_and_go()
    assert left() - before < 2**20


_LOST = """
import torch
from app.engine.device import Device
device = torch.device("cuda:0")
with Device(device).turn():
    print(torch.zeros(4, device=device)[torch.tensor([1 << 20], device=device)])
print("went on")
"""


def test_a_lost_device_ends_the_process() -> None:
    ended = subprocess.run(
        [sys.executable, "-c", _LOST], check=False, capture_output=True, text=True, timeout=120
    )
    assert ended.returncode == 70, ended.stderr[-2000:]
    assert "went on" not in ended.stdout


def test_a_slow_job_may_take_its_steps_in_several_threads(
    on_gpu: Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    registry = Registry({"m": make_manifest()}, GPU, Loading(rows=ROWS))
    runner = Runner(registry, ROWS)
    monkeypatch.setattr(registry, "get", lambda _name, _version: on_gpu)
    (job,) = make_jobs(on_gpu, 1, ("rise",), slow=True, budget=256)
    fast = make_jobs(on_gpu, ROWS)
    expected = finish(runner.run_slowly(job))
    steps = runner.run_slowly(job)
    entry = Entry(job=job, owner=None, job_id=0, settle=lambda _outcome: None)
    with ThreadPoolExecutor(2) as pool:
        while True:
            beside = pool.submit(runner.run, fast)
            step = pool.submit(advance, lambda _job: steps, entry)
            found = step.result()
            beside.result()
            if not isinstance(found, Progress):
                break
    assert isinstance(found, JobResult)
    assert isinstance(expected, JobResult)
    assert_same(found, expected, 1e-6)
