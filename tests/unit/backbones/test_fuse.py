"""The fused trunk gives the numbers of the one that it was made from."""

from itertools import product
from typing import Any

import pytest
import torch
from torch import Tensor, fx, nn

from app.backbones import onednn
from app.backbones.cudnn import CuDnn
from app.backbones.cut import Cutter
from app.backbones.fuse import fuse, pack
from app.backbones.kit import Conv
from app.backbones.parts import Cut
from tests.unit.conftest import MakeModel


def shaped(module: nn.Module, x: Tensor) -> fx.GraphModule:
    """The module, traced, with its shapes as the cutter notes them."""
    traced = fx.symbolic_trace(module.eval().requires_grad_(requires_grad=False))
    with torch.no_grad():
        for node, value in values(traced, x).items():
            node.meta["shape"] = value.shape
    return traced


def values(module: fx.GraphModule, x: Tensor) -> dict[fx.Node, Tensor]:
    found: dict[fx.Node, Tensor] = {}

    class Keep(fx.Interpreter):
        def run_node(self, n: fx.Node) -> object:
            value = super().run_node(n)
            if isinstance(value, Tensor):
                found[n] = value
            return value

    Keep(module).run(x)
    return found


def random_norm(channels: int) -> nn.BatchNorm2d:
    norm = nn.BatchNorm2d(channels)
    for tensor in (norm.running_mean, norm.running_var, norm.weight, norm.bias):
        assert tensor is not None
        nn.init.uniform_(tensor, 0.5, 2.0)
    return norm


class Residual(nn.Module):
    """conv → norm → add → ReLU in place, as in a residual network."""

    def __init__(self, channels: int = 8, *, grouped: bool = False) -> None:
        super().__init__()
        self.inner = nn.Sequential(nn.Conv2d(channels, channels, 1), nn.SiLU())
        self.conv = nn.Conv2d(
            channels, channels, 3, padding=1, bias=False, groups=2 if grouped else 1
        )
        self.norm = random_norm(channels)
        self.relu = nn.ReLU(inplace=True)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.norm(self.conv(self.inner(x)))
        out += x
        activated: Tensor = self.relu(out)
        return activated


def check(module: nn.Module, channels: int = 8) -> fx.GraphModule:
    """Fused and plain agree for one row and for several, by one core and by several; the fused."""
    torch.manual_seed(0)
    many = torch.randn(5, channels, 12, 12).contiguous(memory_format=torch.channels_last)
    plain, fused = shaped(module, many[:1]), shaped(module, many[:1])
    fuse(fused, onednn.OneDnn())
    with torch.no_grad():
        for cores, rows in product((1, torch.get_num_threads()), (1, 5)):
            torch.set_num_threads(cores)
            x = many[:rows].clone(memory_format=torch.channels_last)
            torch.testing.assert_close(fused(x.clone()), plain(x), rtol=1e-5, atol=1e-5)
    return fused


def steps(module: fx.GraphModule) -> int:
    return sum(node.op in {"call_module", "call_function"} for node in module.graph.nodes)


@pytest.mark.parametrize("grouped", [False, True])
def test_a_residual_block_becomes_its_convolutions(grouped: bool) -> None:
    assert steps(check(Residual(grouped=grouped))) == 2


@pytest.mark.parametrize(
    "activation", [nn.ReLU(), nn.SiLU(), nn.Hardswish(), nn.Hardsigmoid(), nn.Sigmoid()]
)
def test_an_activation_is_taken_in(activation: nn.Module) -> None:
    module = nn.Sequential(nn.Conv2d(8, 4, 3, stride=2), random_norm(4), activation)
    assert steps(check(module)) == 1


def test_what_cannot_be_taken_in_stays() -> None:
    for norm in (nn.BatchNorm2d(4, track_running_stats=False), nn.GroupNorm(2, 4)):
        assert steps(check(nn.Sequential(nn.Conv2d(8, 4, 3), norm, nn.GELU()))) == 3
    for odd in (nn.Conv2d(8, 4, 3, padding="same"), nn.Conv2d(8, 4, 3, padding_mode="reflect")):
        assert steps(check(nn.Sequential(odd, nn.ReLU()))) == 2


def test_dropout_and_identity_are_left_out() -> None:
    module = nn.Sequential(nn.Identity(), nn.Conv2d(8, 4, 1), nn.Dropout2d(), nn.ReLU())
    assert steps(check(module)) == 1


class Broadcast(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(8, 8, 1)

    def forward(self, x: Tensor) -> Tensor:
        y = x * 2
        convolved: Tensor = self.conv(y)
        return convolved + x.mean(dim=(2, 3), keepdim=True)


class BroadcastUp(nn.Module):
    """The convolution's result is the smaller summand."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(8, 8, 1)

    def forward(self, x: Tensor) -> Tensor:
        convolved: Tensor = self.conv(x.mean(dim=(2, 3), keepdim=True))
        return convolved + x


class Changed(nn.Module):
    """The input of the convolution is overwritten before the sum is made."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(8, 8, 1)
        self.relu = nn.ReLU(inplace=True)

    def forward(self, x: Tensor) -> Tensor:
        y = x * 2
        convolved: Tensor = self.conv(y)
        activated: Tensor = self.relu(y)
        return convolved + activated


class Twice(nn.Module):
    """One convolution, called twice, and a sum of both."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(8, 8, 1)

    def forward(self, x: Tensor) -> Tensor:
        first = self.conv(x)
        return torch.relu(self.conv(first) + first)


@pytest.mark.parametrize("module", [Broadcast(), BroadcastUp(), Changed(), Twice()])
def test_sums_that_are_not_what_they_seem_are_right(module: nn.Module) -> None:
    check(module)


@pytest.mark.parametrize(
    "architecture", ["resnet18", "mobilenet_v3_small", "efficientnet_b0", "densenet121"]
)
def test_a_model_is_served_by_its_fused_trunk(architecture: str, make_model: MakeModel) -> None:
    model = make_model(architecture)
    trunk = model.cut().forward_features
    assert not any(type(module) is nn.Conv2d for module in trunk.modules())
    before = {"densenet121": 58 + 3 + 1}  # norms that stand before their convolution
    norms = sum(isinstance(module, nn.BatchNorm2d) for module in trunk.modules())
    assert norms == before.get(architecture, 0)


def test_trunks_of_one_model_share_their_packed_weights(make_model: MakeModel) -> None:
    model = make_model("resnet18")
    own, other = (packed(model.cut(*layers)) for layers in ((), ("layer3",)))
    assert other
    assert other.items() <= own.items()


def packed(cut: Cut) -> dict[str, int]:
    """The identity of each convolution's weights."""
    parts = cut.forward_features.named_children()
    return {name: id(part.weights) for name, part in parts if name.startswith("fused_")}


def test_weights_that_one_layout_suits_are_kept_once(make_model: MakeModel) -> None:
    trunk = make_model("resnet50").cut().forward_features
    kept = [m.weights for m in trunk.modules() if isinstance(m, onednn._Conv)]
    assert len(kept) == 53
    for weights in kept:
        one, many = onednn._layout(weights._one_row), onednn._layout(weights._rows)
        assert (weights._one_row is weights._rows) == torch.equal(one, many)


def test_the_model_itself_is_left_as_it_was(make_model: MakeModel) -> None:
    model = make_model("resnet18")
    before = {name: value.clone() for name, value in model.module.state_dict().items()}
    Cutter(model.module, torch.randn(1, 3, 64, 64)).cut("layer3")
    for name, value in model.module.state_dict().items():
        torch.testing.assert_close(value, before[name], rtol=0, atol=0)


class Block(nn.Module):
    """Pre-norm attention and MLP, as in a vision transformer."""

    def __init__(self, channels: int = 8, *, bias: bool = True) -> None:
        super().__init__()
        self.norms = nn.ModuleList([nn.LayerNorm(channels) for _ in range(2)])
        self.attention = nn.MultiheadAttention(channels, 2, bias=bias, batch_first=True)
        self.mlp = nn.Sequential(
            nn.Linear(channels, 16, bias=bias), nn.GELU(), nn.Dropout(), nn.Linear(16, channels)
        )

    def forward(self, x: Tensor) -> Tensor:
        tokens = x.flatten(2).transpose(1, 2)
        y = self.norms[0](tokens)
        attended, _ = self.attention(y, y, y, need_weights=False)
        tokens = tokens + attended
        mixed: Tensor = tokens + self.mlp(self.norms[1](tokens))
        return mixed


@pytest.mark.parametrize("bias", [True, False])
def test_a_transformer_block_is_packed(bias: bool) -> None:
    fused = check(Block(bias=bias))
    kinds = {type(module) for module in fused.modules()}
    assert {onednn._Attention, onednn._Linear} <= kinds
    assert not {nn.MultiheadAttention, nn.Linear, nn.GELU} & kinds


def test_the_tanh_form_of_an_activation_stays_that() -> None:
    rows = nn.Sequential(nn.Flatten(2), nn.Linear(144, 9), nn.GELU(approximate="tanh"))
    assert steps(check(rows)) == 2


def test_attention_whose_weights_are_used_stays() -> None:
    class Shown(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.attention = nn.MultiheadAttention(8, 2, batch_first=True)

        def forward(self, x: Tensor) -> Tensor:
            y = x.flatten(2).transpose(1, 2)
            mixed, weights = self.attention(y, y, y)
            total: Tensor = mixed + weights.sum()
            return total

    assert any(type(m) is nn.MultiheadAttention for m in check(Shown()).modules())


def test_a_packed_head_has_the_gradients_of_the_plain_one() -> None:
    torch.manual_seed(0)
    x = torch.randn(3, 8, 5, 5)
    head = Block()
    plain, packed = shaped(head, x), shaped(head, x)
    pack(packed, onednn.OneDnn())
    assert any(type(module) is onednn._Attention for module in packed.modules())
    results = []
    for module in (plain, packed):
        leaf = x.clone().requires_grad_()
        value = module(leaf)
        (gradient,) = torch.autograd.grad(value.square().sum(), leaf)
        results.append((value.detach(), gradient))
    for expected, found in zip(*results, strict=True):
        torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)


def test_a_linear_layer_of_pooled_features_stays_what_it_is(make_model: MakeModel) -> None:
    assert make_model("resnet18").cut().linear is not None


class Stack(nn.Module):
    """Residual blocks whose inputs nobody reads after their sum, and one whose input is read."""

    def __init__(self, *, read_later: bool) -> None:
        super().__init__()
        self.stem = nn.Conv2d(8, 8, 1)
        self.blocks = nn.ModuleList([Residual(), Residual()])
        self.read_later = read_later

    def forward(self, x: Tensor) -> Tensor:
        first = self.stem(x)
        y = self.blocks[1](self.blocks[0](first))
        result: Tensor = y + first.relu() if self.read_later else y
        return result


@pytest.mark.parametrize("read_later", [False, True])
def test_a_sum_is_made_in_place_where_nobody_reads_the_summand_again(read_later: bool) -> None:
    fused = check(Stack(read_later=read_later))
    layers = [m for m in fused.modules() if isinstance(m, onednn._Conv)]
    assert sum(layer.in_place for layer in layers) == (1 if read_later else 2)


def test_the_input_is_never_overwritten() -> None:
    x = torch.randn(2, 8, 12, 12).contiguous(memory_format=torch.channels_last)
    before = x.clone()
    fused = shaped(Residual(), x[:1])
    fuse(fused, onednn.OneDnn())
    with torch.no_grad():
        fused(x)
    assert torch.equal(x, before)


@pytest.fixture
def cudnn(monkeypatch: pytest.MonkeyPatch) -> CuDnn:
    """The kit of a GPU, its two steps as cuDNN describes them."""

    def relu(x: Tensor, weight: Tensor, bias: Tensor, *how: Any) -> Tensor:
        return nn.functional.conv2d(x, weight, bias, *how).relu()

    def add_relu(
        x: Tensor, weight: Tensor, other: Tensor, alpha: float, bias: Tensor, *how: Any
    ) -> Tensor:
        return (nn.functional.conv2d(x, weight, bias, *how) + alpha * other).relu()

    monkeypatch.setattr(torch, "cudnn_convolution_relu", relu)
    monkeypatch.setattr(torch, "cudnn_convolution_add_relu", add_relu)
    return CuDnn()


@pytest.mark.parametrize(
    ("module", "left"),
    [
        (Residual(), 3),  # the SiLU stays
        (Residual(grouped=True), 5),  # so do the sum and the ReLU behind many groups
        (nn.Sequential(nn.Conv2d(8, 4, 3, stride=2), random_norm(4), nn.ReLU()), 1),
        (nn.Sequential(nn.Conv2d(8, 8, 3, groups=8), random_norm(8), nn.ReLU()), 2),
        (nn.Sequential(nn.Conv2d(8, 4, 3), random_norm(4), nn.Hardswish()), 2),
    ],
)
def test_on_a_gpu_relu_is_what_convolutions_take_in(
    cudnn: CuDnn, module: nn.Module, left: int
) -> None:
    torch.manual_seed(0)
    x = torch.randn(3, 8, 12, 12).contiguous(memory_format=torch.channels_last)
    plain, fused = shaped(module, x[:1]), shaped(module, x[:1])
    fuse(fused, cudnn)
    assert steps(fused) == left
    with torch.no_grad():
        torch.testing.assert_close(fused(x.clone()), plain(x.clone()), rtol=1e-5, atol=1e-5)


def test_a_gpu_has_no_better_linear_layers_than_pytorchs(cudnn: CuDnn) -> None:
    fused = shaped(Block(), torch.randn(3, 8, 5, 5))
    fuse(fused, cudnn)
    assert {nn.Linear, nn.MultiheadAttention} <= {type(module) for module in fused.modules()}


def test_trunks_on_a_gpu_share_their_weights(cudnn: CuDnn) -> None:
    model, x = Residual(), torch.randn(1, 8, 12, 12)
    one, other = shaped(model, x), shaped(model, x)
    fuse(one, cudnn)
    fuse(other, cudnn)
    assert weights_of(one) == weights_of(other)
    assert weights_of(one)


def weights_of(fused: fx.GraphModule) -> list[int]:
    return [id(m._weights) for m in fused.modules() if isinstance(m, Conv)]
