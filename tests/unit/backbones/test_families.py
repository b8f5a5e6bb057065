"""Models of timm, of the operator's own Python, and such that cannot be traced."""

import io
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import timm
import torch
from PIL import Image
from safetensors.torch import save_file
from timm.data.config import resolve_data_config
from timm.data.transforms_factory import create_transform
from torch import Tensor, nn
from torchvision import models

from app.backbones.cut import Cutter, Untraceable
from app.backbones.family import labels, preprocess
from app.backbones.guess import Guess, guess
from app.backbones.hooked import HookedCutter
from app.backbones.manifest import Manifest
from app.backbones.model import Loading, Model
from app.backbones.weights import plain_names, read_state
from app.engine.fast import run
from app.engine.slow import finish, run_slowly
from app.errors import ManifestError, ModelCheckFailed
from app.evaluation.evaluate import model_input
from app.types import Job, JobResult
from tests.unit.conftest import make_manifest

CPU = torch.device("cpu")

TIMM = {  # architecture: its cut, its grid, its prefix tokens
    "resnet18": ("layer4", (7, 7), 0),
    "convnextv2_atto": ("stages", (7, 7), 0),
    "vit_tiny_patch16_224": ("blocks.10", (14, 14), 1),
    "deit_tiny_distilled_patch16_224": ("blocks.10", (14, 14), 2),
    "vit_small_patch14_reg4_dinov2": ("blocks.10", (16, 16), 5),  # four registers
    "swin_tiny_patch4_window7_224": ("norm", (7, 7), 0),
    "vit_tiny_r_s16_p8_224": ("blocks.10", (7, 7), 1),  # a hybrid, not traceable
    "mobilevit_xxs": ("final_conv", (8, 8), 0),  # not traceable
}


def make(folder: Path = Path(), loading: Loading | None = None, **keys: object) -> Model:
    manifest = Manifest.model_validate(
        {"path": folder / "m.toml", "name": "m", "family": "torchvision",
         "architecture": "shufflenet_v2_x0_5", "weights": "random", **keys}
    )  # fmt: skip
    return Model(manifest, CPU, loading or Loading())


def job(model: Model, *classes: int | str, methods: tuple[str, ...] = ("gradcam",)) -> Job:
    height, width = model.preprocess.crop
    pixels = np.random.default_rng(0).integers(0, 256, (height, width, 3), np.uint8)
    return Job(
        model="", version="", pixels=pixels, deadline=1e12, classes=classes, methods=methods,
        budget=8, slow=True,
    )  # fmt: skip


def explained(model: Model, *classes: int | str) -> JobResult:
    outcome = run(model, [job(model, *classes)])[0]
    assert isinstance(outcome, JobResult)
    return outcome


@pytest.mark.parametrize("architecture", TIMM)
def test_a_model_of_timm_is_cut_at_its_last_map_and_its_classes_differ(architecture: str) -> None:
    crop: dict[str, Any] = (
        {"preprocess": {"crop": 224}} if "dinov2" in architecture else {}
    )  # not its 518
    model = make(family="timm", architecture=architecture, **crop)
    cut = model.cut()
    found = (cut.layer, (cut.grid.height, cut.grid.width), cut.grid.prefix)
    assert found == TIMM[architecture]
    one, other = (explained(model, index).maps[0].values for index in (3, 7))
    assert np.ptp(one) > 0
    assert np.abs(one - other).max() > 1e-3 * np.abs(one).max()


@pytest.mark.parametrize(
    "architecture", ["resnet18", "vit_tiny_patch16_224", "convnext_tiny", "swinv2_cr_tiny_ns_224"]
)
def test_the_input_is_that_of_timms_own_transforms(architecture: str) -> None:
    manifest = make_manifest(family="timm", architecture=architecture, preprocess={})
    picture = Image.fromarray(np.random.default_rng(0).integers(0, 256, (300, 420, 3), np.uint8))
    config = resolve_data_config({}, model=timm.create_model(architecture))  # type: ignore[no-untyped-call]
    expected = create_transform(**config, normalize=False)(picture)
    upload = io.BytesIO()
    picture.save(upload, "PNG")
    ours, _ = model_input(preprocess(manifest), upload.getvalue())
    np.testing.assert_array_equal(ours.transpose(2, 0, 1), np.asarray(expected))


def test_preprocessing_and_labels_are_those_of_timms_configuration() -> None:
    manifest = Manifest.model_validate(
        {"path": "m.toml", "name": "m", "family": "timm", "architecture": "resnet18",
         "weights": "random"}
    )  # fmt: skip
    found = preprocess(manifest)
    assert (found.crop, found.resize, found.interpolation) == ((224, 224), 235, "bicubic")
    assert labels(manifest, 1000)[281].startswith("tabby")


def test_what_timm_has_not_is_refused() -> None:
    with pytest.raises(ManifestError, match="timm has no model 'resnet7'"):
        make(family="timm", architecture="resnet7")
    with pytest.raises(ManifestError, match="'pretrained', 'random'"):
        make(family="timm", architecture="resnet18", weights="IMAGENET1K_V1")


def test_a_factory_builds_a_model_where_that_is_allowed(tmp_path: Path) -> None:
    (tmp_path / "net.py").write_text(
        "from torchvision import models\n"
        "def make(num_classes):\n"
        "    return models.shufflenet_v2_x0_5(num_classes=num_classes)\n"
    )
    keys = {"family": "factory", "architecture": "net.py:make", "num_classes": 3}
    model = make(tmp_path, Loading(allow_factories=True), **keys)
    assert (model.labels, model.layer) == (("class 0", "class 1", "class 2"), "conv5")


@pytest.mark.parametrize("pool", ["nn.Dropout()", "nn.AdaptiveAvgPool2d(2)"])
def test_a_head_that_keeps_the_cells_apart_has_a_gradient_for_each(
    tmp_path: Path, pool: str
) -> None:
    (tmp_path / "net.py").write_text(
        "from torch import nn\n"
        "def make(num_classes):\n"
        f"    pool = {pool}\n"
        "    cells = 4 if isinstance(pool, nn.AdaptiveAvgPool2d) else 64\n"
        "    conv = nn.Conv2d(3, 5, 3, stride=8, padding=1)\n"
        "    linear = nn.Linear(5 * cells, num_classes)\n"
        "    return nn.Sequential(conv, nn.ReLU(), pool, nn.Flatten(), linear)\n"
    )
    keys = {"family": "factory", "architecture": "net.py:make", "num_classes": 3}
    model = make(tmp_path, Loading(allow_factories=True), preprocess={"crop": 64}, **keys)
    assert (model.layer, model.cut().linear) == ("1", None)


SMALL_VIT = {
    "image_size": 32, "patch_size": 8, "num_layers": 2, "num_heads": 2, "hidden_dim": 16,
    "mlp_dim": 32,
}  # fmt: skip
STEM = [{"out_channels": 8 * (i + 1), "kernel_size": 3, "stride": 2} for i in range(3)]


@pytest.mark.parametrize("stem", [{}, {"conv_stem_configs": STEM}])
def test_a_transformer_of_ones_own_size_is_described_by_its_arguments(stem: dict[str, Any]) -> None:
    arguments = {**SMALL_VIT, **stem}
    model = make(architecture="VisionTransformer", num_classes=3, arguments=arguments)
    assert model.preprocess.crop == (32, 32)
    assert (model.labels[-1], model.cut().layer) == ("class 2", "encoder.layers.encoder_layer_0")
    assert np.ptp(explained(model, 2).maps[0].values) > 0


def test_every_layer_that_is_listed_can_be_asked_for() -> None:
    model = make(architecture="VisionTransformer", num_classes=3, arguments=SMALL_VIT)
    x = torch.randn(2, 3, 32, 32)
    expected = model.module(x)
    for layer in model.info.layers:
        cut = model.cut(layer.name)
        assert torch.allclose(cut.forward_head(cut.forward_features(x))[0], expected, atol=1e-5)
    assert "conv_proj" in {layer.name for layer in model.info.layers}


def test_arguments_go_to_every_familys_constructor(tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text(
        "from torch import nn\n"
        "def net(num_classes, width):\n"
        "    return nn.Sequential(nn.Conv2d(3, width, 3, 8), nn.AdaptiveAvgPool2d(1), nn.Flatten(),"
        " nn.Linear(width, num_classes))\n"
    )
    own = make(
        tmp_path, Loading(allow_factories=True), family="factory", architecture="mine.py:net",
        num_classes=2, arguments={"width": 5},
    )  # fmt: skip
    assert own.module[0].out_channels == 5  # type: ignore[index]
    narrow = {"embed_dim": 24, "num_heads": 3, "depth": 2}
    vit = make(family="timm", architecture="vit_tiny_patch16_224", arguments=narrow)
    assert len(vit.module.get_submodule("blocks")) == 2  # type: ignore[arg-type]


@pytest.mark.parametrize(("family", "architecture"), [
    ("torchvision", "VisionTransformer"), ("torchvision", "resnet18"), ("timm", "resnet18"),
])  # fmt: skip
def test_arguments_that_a_constructor_has_not_are_named(family: str, architecture: str) -> None:
    with pytest.raises(ManifestError, match=r"m\.toml: arguments: .*'colour'"):
        make(family=family, architecture=architecture, arguments={"colour": "red"})


def test_arguments_cannot_name_other_weights() -> None:
    with pytest.raises(ManifestError, match="arguments: checkpoint_path: which weights"):
        make(family="timm", architecture="resnet18", arguments={"checkpoint_path": "w.pth"})


def test_published_weights_are_of_published_sizes_only() -> None:
    with pytest.raises(ManifestError, match="none are published for VisionTransformer"):
        make(architecture="VisionTransformer", weights="IMAGENET1K_V1", arguments=SMALL_VIT)


def test_a_factory_with_other_code_is_another_version(tmp_path: Path) -> None:
    def version(code: str) -> str:
        (tmp_path / "net.py").write_text(code)
        keys = {"family": "factory", "architecture": "net.py:make"}
        return make_manifest(tmp_path, **keys).version()

    assert version("x = 1") == version("x = 1") != version("x = 2")


class Deciding(nn.Module):
    """Decides by a value, which no tracing can follow."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3, stride=2, padding=1)
        self.blocks = nn.Sequential(nn.Conv2d(8, 8, 3, padding=1), nn.Conv2d(8, 8, 3, padding=1))
        self.relu = nn.ReLU(inplace=True)
        self.head = nn.Linear(8, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        if x.sum() > 1e9:
            x = -x
        logits: Tensor = self.head(self.relu(self.blocks(x)).mean(dim=(2, 3)))
        return logits


@pytest.fixture
def deciding() -> tuple[nn.Module, Tensor]:
    torch.manual_seed(0)
    return Deciding().eval().requires_grad_(False), torch.randn(1, 3, 16, 16)


def test_a_model_that_cannot_be_traced_is_explained_by_hooks(
    deciding: tuple[nn.Module, Tensor],
) -> None:
    model, x = deciding
    with pytest.raises(Untraceable):
        Cutter(model, x)
    cutter = HookedCutter(model, x)
    assert list(cutter.layers) == ["stem", "blocks.0", "blocks.1", "blocks", "relu"]
    assert cutter.default == "relu"
    cut = cutter.cut("blocks.0", "relu")
    with torch.enable_grad():
        logits, first, last = cut.forward_head(cut.forward_features(x).requires_grad_())
        inner, outer = torch.autograd.grad(logits[0, 2], [first, last])
    torch.testing.assert_close(logits.detach(), model(x))
    torch.testing.assert_close(outer[0, :, 0, 0], model.head.weight[2] / 64)  # type: ignore[union-attr, index]
    assert inner.abs().sum() > 0
    assert bool((last >= 0).all())
    before = cutter.cut("blocks").forward_head(x)[1]  # the ReLU overwrites what comes behind it
    assert bool((before < 0).any())


def test_nothing_is_kept_while_nobody_watches(deciding: tuple[nn.Module, Tensor]) -> None:
    model, x = deciding
    cutter = HookedCutter(model, x)
    assert not model(x).requires_grad
    with pytest.raises(KeyError):
        cutter.cut("head")


def test_a_hooked_model_takes_slow_methods(tmp_path: Path) -> None:
    (tmp_path / "net.py").write_text(
        "from tests.unit.backbones.test_families import Deciding\n"
        "def make():\n    return Deciding()\n"
    )
    keys = {"family": "factory", "architecture": "net.py:make", "preprocess": {"crop": 64}}
    model = make(tmp_path, Loading(allow_factories=True), **keys)
    assert not model.info.traced
    steps = run_slowly(model, job(model, "top1", methods=("gradcam", "rise", "saliency")), 4)
    assert isinstance(finish(steps), JobResult)


# Heads of independent classes, and precision


def test_the_scores_of_a_sigmoid_head_are_each_for_itself() -> None:
    model = make(activation="sigmoid", num_classes=4)
    found = explained(model, 1)
    np.testing.assert_allclose(found.scores, 1 / (1 + np.exp(-found.logits)), rtol=1e-5)


def test_positive_classes_are_those_above_the_threshold() -> None:
    model = make(activation="sigmoid", num_classes=6)
    scores = explained(model, 0).scores
    model.threshold = float(np.sort(scores)[-3])
    expected = np.argsort(-scores)[:3].tolist()
    assert [m.index for m in explained(model, "positive16").maps] == expected
    assert [m.index for m in explained(model, "positive2").maps] == expected[:2]
    model.threshold = 0.999
    assert explained(model, "positive16").maps == ()
    steps = run_slowly(model, job(model, "positive16", methods=("rise",)), 4)
    outcome = finish(steps)
    assert isinstance(outcome, JobResult)
    assert outcome.maps == ()


@pytest.mark.parametrize("fused", [True, False])
def test_a_trunk_in_bfloat16_has_almost_the_scores_of_float32(fused: bool) -> None:
    exact = explained(make(), "top1")
    lowered = make(loading=Loading(precision="bf16", fused=fused))
    found = explained(lowered, "top1")
    assert lowered.info.precision == "bf16"
    np.testing.assert_allclose(found.scores, exact.scores, rtol=0, atol=0.01)
    assert not np.array_equal(found.logits, exact.logits)
    assert found.maps[0].values.dtype == np.float32


@pytest.mark.parametrize("able", [True, False])
def test_a_precision_that_the_processor_does_not_have_is_warned_of(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, able: bool
) -> None:
    monkeypatch.setattr(
        "app.backbones.model.computes_in", lambda dtype: able or dtype == torch.float32
    )
    make(loading=Loading(precision="fp32"))
    assert not caplog.records
    make(loading=Loading(precision="bf16"))
    assert ("no instructions for bf16" in caplog.text) is not able


def test_a_precision_that_moves_a_score_is_refused(tmp_path: Path) -> None:
    born = make(num_classes=2)
    state = born.module.state_dict()
    with torch.no_grad():
        logits = born.module(born.inputs.normalize(born.inputs.examples()))
        scale = 3 / (logits[:, 1] - logits[:, 0]).std()  # scores that hang on the last digits
    state["fc.bias"] -= logits.mean(dim=0)
    state["fc.weight"] *= scale
    state["fc.bias"] *= scale
    save_file(
        {name: tensor.contiguous() for name, tensor in state.items()}, tmp_path / "w.safetensors"
    )
    digest = sha256((tmp_path / "w.safetensors").read_bytes()).hexdigest()

    def load(**keys: Any) -> Model:
        return make(tmp_path, weights="w.safetensors", sha256=digest, num_classes=2, **keys)

    load()
    with pytest.raises(ModelCheckFailed, match="bf16 moves a score"):
        load(precision="bf16")


# What training loops wrap around the tensors


def test_wrappers_and_prefixes_are_taken_off(tmp_path: Path) -> None:
    net = models.resnet18(num_classes=3)
    wrapped = {"epoch": 3, "state_dict": {f"model.{k}": v for k, v in net.state_dict().items()}}
    torch.save(wrapped, tmp_path / "a.pth")
    torch.save(nn.DataParallel(net).state_dict(), tmp_path / "b.pth")
    for name in ("a.pth", "b.pth"):
        state = plain_names(read_state(tmp_path / name), net.state_dict())
        assert state.keys() == net.state_dict().keys()


@pytest.mark.parametrize(
    "architecture", ["resnet18", "mobilenet_v3_small", "densenet121", "swin_t", "squeezenet1_1"]
)
def test_the_architecture_and_its_classes_are_guessed(architecture: str) -> None:
    state = models.get_model(architecture, num_classes=5).state_dict()
    assert guess({f"module.{k}": v for k, v in state.items()}) == Guess(architecture, 5)


def test_what_cannot_be_guessed_says_what_to_do() -> None:
    with pytest.raises(ModelCheckFailed, match="write the manifest yourself"):
        guess({"w": torch.zeros(3, 4)})
    with pytest.raises(ModelCheckFailed, match="no weights"):
        guess({"w": torch.zeros(3)})
