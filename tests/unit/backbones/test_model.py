"""Loading a model: its weights, its defaults, and the checks it must pass before it serves."""

import hashlib
import threading
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
import torch
from safetensors.torch import save
from torch import Tensor, fx, nn
from torchvision import models, transforms

from app.backbones import torchvision as tv
from app.backbones.cut import Cutter
from app.backbones.family import build, labels, preprocess
from app.backbones.model import Model
from app.backbones.parts import Cut
from app.backbones.registry import Registry
from app.backbones.selfcheck import self_check
from app.errors import InvalidOption, ManifestError, ModelCheckFailed, ModelReplaced
from tests.unit.conftest import MakeModel, make_manifest

CPU = torch.device("cpu")


def write_weights(folder: Path, state: dict[str, Tensor]) -> dict[str, str]:
    """Write a weights file; the manifest's keys for it."""
    content = save(state)
    (folder / "w.safetensors").write_bytes(content)
    return {"weights": "w.safetensors", "sha256": hashlib.sha256(content).hexdigest()}


@pytest.fixture
def state() -> dict[str, Tensor]:
    torch.manual_seed(3)
    weights: dict[str, Tensor] = models.shufflenet_v2_x0_5(num_classes=4).state_dict()
    return weights


def test_weights_from_a_file_are_the_models_weights(
    tmp_path: Path, state: dict[str, Tensor]
) -> None:
    model = Model(make_manifest(tmp_path, **write_weights(tmp_path, state)), CPU)
    for name, tensor in model.module.state_dict().items():
        assert torch.equal(tensor, state[name])


def test_random_weights_are_the_same_for_the_same_seed_and_leave_no_trace(tmp_path: Path) -> None:
    before = torch.random.get_rng_state()
    one, same, other = (
        build(make_manifest(tmp_path, seed=seed), allow_factories=False) for seed in (1, 1, 2)
    )
    assert torch.equal(before, torch.random.get_rng_state())
    weights = [next(model.parameters()) for model in (one, same, other)]
    assert torch.equal(weights[0], weights[1])
    assert not torch.equal(weights[0], weights[2])


def test_a_file_with_another_hash_is_refused_with_both_hashes(
    tmp_path: Path, state: dict[str, Tensor]
) -> None:
    keys = write_weights(tmp_path, state)
    with pytest.raises(ModelCheckFailed, match=rf"{keys['sha256']}.*{'0' * 64}"):
        Model(make_manifest(tmp_path, **(keys | {"sha256": "0" * 64})), CPU)


def test_a_file_that_is_missing_is_named(tmp_path: Path) -> None:
    with pytest.raises(ModelCheckFailed, match=r"gone\.safetensors"):
        Model(make_manifest(tmp_path, weights="gone.safetensors", sha256="0" * 64), CPU)


def test_a_damaged_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "w.safetensors").write_bytes(b"\0" * 100)
    digest = hashlib.sha256(b"\0" * 100).hexdigest()
    with pytest.raises(ModelCheckFailed, match="damaged"):
        Model(make_manifest(tmp_path, weights="w.safetensors", sha256=digest), CPU)


def test_a_missing_tensor_is_named(tmp_path: Path, state: dict[str, Tensor]) -> None:
    del state["fc.bias"]
    with pytest.raises(ModelCheckFailed, match=r"lack 'fc\.bias'"):
        Model(make_manifest(tmp_path, **write_weights(tmp_path, state)), CPU)


def test_an_unknown_tensor_is_named(tmp_path: Path, state: dict[str, Tensor]) -> None:
    state["extra"] = torch.zeros(1)
    with pytest.raises(ModelCheckFailed, match="'extra'"):
        Model(make_manifest(tmp_path, **write_weights(tmp_path, state)), CPU)


def test_a_misshapen_tensor_is_named_with_both_shapes(
    tmp_path: Path, state: dict[str, Tensor]
) -> None:
    keys = write_weights(tmp_path, state)
    with pytest.raises(ModelCheckFailed, match=r"'fc\.weight' is \[4, 1024\].*\[7, 1024\]"):
        Model(make_manifest(tmp_path, **keys, num_classes=7), CPU)


def test_weights_with_nan_are_refused(tmp_path: Path, state: dict[str, Tensor]) -> None:
    state["fc.weight"][0, 0] = float("nan")
    with pytest.raises(ModelCheckFailed, match="finite"):
        Model(make_manifest(tmp_path, **write_weights(tmp_path, state)), CPU)


def test_an_unknown_architecture_is_refused_by_name(tmp_path: Path) -> None:
    for wrong in ("nobody", "maskrcnn_resnet50_fpn"):
        with pytest.raises(ManifestError, match=wrong):
            Model(make_manifest(tmp_path, architecture=wrong), CPU)


def test_an_unknown_weights_name_is_refused_with_those_there_are(tmp_path: Path) -> None:
    with pytest.raises(ManifestError, match="IMAGENET1K_V1"):
        Model(make_manifest(tmp_path, weights="V9"), CPU)


def test_what_a_manifest_leaves_out_comes_from_the_weights_entry(tmp_path: Path) -> None:
    manifest = make_manifest(
        tmp_path, architecture="resnet50", num_classes=None, preprocess={"crop": [192, 160]}
    )
    spec = preprocess(manifest)
    preset = models.ResNet50_Weights.DEFAULT.transforms()
    assert [spec.resize] == preset.resize_size
    assert spec.crop == (192, 160)
    assert (list(spec.mean), list(spec.std)) == (preset.mean, preset.std)
    assert labels(manifest, 1000)[281] == "tabby"


def test_classes_without_labels_are_numbered(tmp_path: Path) -> None:
    assert labels(make_manifest(tmp_path), 3) == ("class 0", "class 1", "class 2")


def test_a_label_file_of_another_length_is_refused_with_both_numbers(tmp_path: Path) -> None:
    (tmp_path / "l.txt").write_text("a\nb\n")
    with pytest.raises(ManifestError, match=r"2 labels.* 4 classes"):
        Model(make_manifest(tmp_path, labels="l.txt"), CPU)


def test_the_manifests_own_layer_is_used(tmp_path: Path) -> None:
    assert Model(make_manifest(tmp_path, layer="stage4"), CPU).layer == "stage4"
    with pytest.raises(ModelCheckFailed, match=r"nowhere.*conv5"):
        Model(make_manifest(tmp_path, layer="nowhere"), CPU)


def test_a_layer_that_the_model_has_not_is_an_error_of_the_request(make_model: MakeModel) -> None:
    with pytest.raises(InvalidOption, match="nowhere"):
        make_model("resnet18").cut("nowhere")


@pytest.mark.parametrize("crop", [(64, 64), (64, 96)])
def test_pictures_are_normalised_as_torchvision_does_it(crop: tuple[int, int]) -> None:
    model = Model(make_manifest(preprocess={"resize": 96, "crop": crop}), CPU)
    pixels = torch.randint(0, 256, (*crop, 3), dtype=torch.uint8)
    spec = model.preprocess
    expected = transforms.Normalize(spec.mean, spec.std)(pixels.permute(2, 0, 1) / 255)
    torch.testing.assert_close(model.inputs([pixels.numpy()])[0], expected)


# The real download code, against a server of our own


@pytest.fixture
def weights_server(tmp_path: Path) -> Iterator[str]:
    handler = partial(SimpleHTTPRequestHandler, directory=str(tmp_path / "served"))
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


@pytest.fixture
def published(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """Publishes a small weights file; its name, which holds the start of its hash."""
    monkeypatch.setattr(torch.hub, "_hub_dir", str(tmp_path / "cache"))
    (tmp_path / "served").mkdir()
    torch.save({"w": torch.arange(3)}, tmp_path / "served" / "new.pth")
    digest = hashlib.sha256((tmp_path / "served" / "new.pth").read_bytes()).hexdigest()
    (tmp_path / "served" / "new.pth").rename(tmp_path / "served" / f"net-{digest[:8]}.pth")
    return f"net-{digest[:8]}.pth"


def test_published_weights_are_fetched_once_and_then_found_in_the_cache(
    tmp_path: Path, weights_server: str, published: str
) -> None:
    manifest = make_manifest(tmp_path)
    assert tv.download(manifest, f"{weights_server}/{published}")["w"].tolist() == [0, 1, 2]
    (tmp_path / "served" / published).unlink()
    assert tv.download(manifest, f"{weights_server}/{published}")["w"].tolist() == [0, 1, 2]


def test_a_download_with_another_hash_is_refused_and_not_kept(
    tmp_path: Path, weights_server: str, published: str
) -> None:
    served = tmp_path / "served" / published
    served.write_bytes(served.read_bytes()[:-1])
    with pytest.raises(ModelCheckFailed, match="hash"):
        tv.download(make_manifest(tmp_path), f"{weights_server}/{published}")
    assert list((tmp_path / "cache" / "checkpoints").iterdir()) == []


def test_without_the_server_the_error_says_what_to_do(
    tmp_path: Path, weights_server: str, published: str
) -> None:
    with pytest.raises(ModelCheckFailed, match=r"m: cannot get its weights.*put the file into"):
        tv.download(make_manifest(tmp_path), f"{weights_server}/gone-{'0' * 8}.pth")


# The checks of a loaded model


class Pooled(nn.Module):
    """Global average pooling and one linear layer, in a form of the test's choice."""

    def __init__(self, head: nn.Module) -> None:
        super().__init__()
        self.features = nn.Conv2d(3, 6, 3, padding=1)
        self.head = head

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.head(self.features(x))
        return logits


def cut_of(model: nn.Module) -> tuple[Cut, Tensor]:
    example = torch.randn(1, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    cutter = Cutter(model.eval().requires_grad_(False), example)
    return cutter.cut(cutter.default), example


def test_a_head_of_pooling_and_one_linear_layer_is_recognised() -> None:
    linear = nn.Linear(6, 4)
    head = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Dropout(), linear)
    model = Pooled(head)
    cut, example = cut_of(model)
    assert cut.linear is linear.weight
    assert self_check(model(example), cut, example) == 4


@pytest.mark.parametrize(
    "head",
    [
        nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(6, 5), nn.Linear(5, 4)),
        nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.LayerNorm(6), nn.Linear(6, 4)),
    ],
)
def test_other_heads_are_not_taken_for_one(head: nn.Module) -> None:
    assert cut_of(Pooled(head))[0].linear is None


def test_a_head_that_is_not_the_models_is_refused() -> None:
    head = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(6, 4))
    model = Pooled(head)
    cut, example = cut_of(model)

    class Off(nn.Module):
        def forward(self, activations: Tensor) -> tuple[Tensor, Tensor]:
            logits, target = cut.forward_head(activations)
            return logits * 1.01, target

    wrong = replace(cut, forward_head=Off())
    with pytest.raises(ModelCheckFailed, match="split"):
        self_check(model(example), wrong, example)


def test_a_model_whose_classes_have_no_gradient_is_refused() -> None:
    linear = nn.Linear(6, 4)
    model = Pooled(nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), linear))
    cut, example = cut_of(model)
    nn.init.zeros_(linear.weight)
    with pytest.raises(ModelCheckFailed, match="gradient"):
        self_check(model(example), cut, example)


def test_a_trunk_of_less_precision_may_see_another_of_two_equal_classes_first() -> None:
    linear = nn.Linear(6, 2)
    model = Pooled(nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), linear))
    cut, example = cut_of(model)
    nn.init.zeros_(linear.bias)
    linear.weight[1] = 0
    with torch.no_grad():
        first = model(example)[0, 0]
        linear.bias[1] = 1.001 * first
        linear.weight.mul_(first.sign())
        linear.bias.mul_(first.sign())

    class Rounded(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            rounded: Tensor = cut.forward_features(x) * 1.01
            return rounded

    rounded = replace(cut, forward_features=Rounded())
    with torch.no_grad():
        logits = rounded.forward_head(rounded.forward_features(example))[0]
        assert logits.argmax() != model(example).argmax()
    assert self_check(model(example), rounded, example, tolerance=0.1) == 2


def test_a_gradient_that_is_not_the_closed_form_is_refused() -> None:
    model = Pooled(nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(6, 4)))
    cut, example = cut_of(model)
    assert isinstance(cut.forward_head, fx.GraphModule)
    linear = cut.forward_head.get_submodule("head.2")
    assert isinstance(linear, nn.Linear)

    class Skewed(nn.Linear):
        """The same logits, another gradient."""

        def forward(self, x: Tensor) -> Tensor:
            return super().forward(x + (x - x.detach()))

    skewed = Skewed(6, 4).requires_grad_(False)
    skewed.load_state_dict(linear.state_dict())
    cut.forward_head.get_submodule("head").register_module("2", skewed)
    with pytest.raises(ModelCheckFailed, match="closed form"):
        self_check(model(example), cut, example)


def test_a_model_that_answers_no_rows_of_logits_is_refused() -> None:
    model = Pooled(nn.Sequential(nn.AdaptiveAvgPool2d(1)))
    cut, example = cut_of(Pooled(nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten())))
    with pytest.raises(ModelCheckFailed, match="logits"):
        self_check(model(example), cut, example)


# The registry


def test_models_that_need_no_network_are_loaded_first(tmp_path: Path) -> None:
    manifests = {
        "far": make_manifest(tmp_path, name="far", weights="IMAGENET1K_V1"),
        "near": make_manifest(tmp_path, name="near"),
    }
    assert Registry(manifests, CPU).expect(["far", "near"]) == ["near", "far"]


def test_a_model_that_fails_keeps_its_reason_and_the_others_are_served(tmp_path: Path) -> None:
    manifests = {
        "bad": make_manifest(tmp_path, name="bad", layer="nowhere"),
        "good": make_manifest(tmp_path, name="good"),
    }
    registry = Registry(manifests, CPU)
    for name in registry.expect(["bad", "good"]):
        registry.load(name, lambda _model: None)
    bad, good = registry.models()
    assert (bad.state, good.state) == ("failed", "ready")
    assert "nowhere" in str(bad.error)
    assert registry.get("good", str(good.version)).info == good
    with pytest.raises(ModelReplaced):
        registry.get("bad", "v")


def test_a_model_that_cannot_be_warmed_up_is_not_served(tmp_path: Path) -> None:
    registry = Registry({"m": make_manifest(tmp_path)}, CPU)

    def fail(_model: Model) -> None:
        raise MemoryError("too large")

    registry.load("m", fail)
    (info,) = registry.models()
    assert (info.state, info.error) == ("failed", "MemoryError: too large")
