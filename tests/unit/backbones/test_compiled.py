"""A compiled program takes the batches that it was made for; the trunk, all others."""

import gc
import weakref
from collections.abc import Callable, Iterator

import pytest
import torch
from torch import Tensor

from app.backbones import model as model_module
from app.backbones.compiled import Compiled
from app.backbones.cores import Cores, Kind
from app.backbones.kit import Conv
from app.backbones.model import Loading, Model
from app.errors import ModelCheckFailed
from app.types import Precision
from tests.unit.conftest import make_manifest

CPU = torch.device("cpu")
FOUR = Cores(all=4, drivers=2)


@pytest.fixture
def threads() -> Iterator[Callable[[int], None]]:
    before = torch.get_num_threads()
    yield torch.set_num_threads
    torch.set_num_threads(before)


def noting(trunk: Callable[[Tensor], Tensor], called: list[int]) -> Callable[[Tensor], Tensor]:
    def run(x: Tensor) -> Tensor:
        assert x.is_contiguous(memory_format=torch.channels_last)
        called.append(len(x))
        return trunk(x)

    return run


def program(called: list[int]) -> Callable[[Tensor], Tensor]:
    return noting(lambda x: x[:, :1], called)


def pictures(rows: int) -> Tensor:
    return torch.arange(1.0, rows * 12 + 1).view(rows, 3, 2, 2)


@pytest.mark.parametrize(
    ("cores", "kinds"),
    [
        (Cores(1, 1), ("beside",)),  # a row alone has no more than a share
        (Cores(2, 2), ("alone", "beside")),
        (Cores(2, 1), ("beside",)),
        (Cores(16, 4), ("alone", "beside")),
    ],
)
def test_there_is_a_program_for_a_row_alone_where_it_has_more_than_a_share(
    cores: Cores, kinds: tuple[Kind, ...]
) -> None:
    assert cores.kinds == kinds


@pytest.mark.parametrize(
    ("rows", "cores", "kind"),
    [(1, 4, "alone"), (1, 3, "alone"), (1, 2, "beside"), (2, 4, "beside"), (7, 1, "beside")],
)
def test_a_row_that_has_more_than_its_share_has_a_program_of_its_own(
    rows: int, cores: int, kind: Kind, threads: Callable[[int], None]
) -> None:
    called: dict[Kind, list[int]] = {"alone": [], "beside": []}
    compiled = Compiled({k: program(c) for k, c in called.items()}, FOUR, own=torch.nn.Identity)
    threads(cores)
    assert torch.equal(compiled(pictures(rows)), pictures(rows)[:, :1])
    assert called.pop(kind) == [rows]
    assert called.popitem()[1] == []


@pytest.mark.parametrize("architecture", ["resnet18", "mobilenet_v3_small", "vit_b_32"])
def test_what_a_compiler_begins_with_is_the_trunk_in_pytorchs_own_steps(architecture: str) -> None:
    manifest = make_manifest(architecture=architecture, preprocess={"resize": 224, "crop": 224})
    model = Model(manifest, CPU)
    model.check_trunk("portable", model.portable_trunk(), rows=5)
    assert not any(module.__module__.startswith("app.backbones.onednn")
                   for module in model.portable_trunk().modules())  # fmt: skip


def test_a_model_takes_programs_that_give_its_logits_from_the_next_batch_on() -> None:
    model = Model(make_manifest(), CPU)
    called: list[int] = []
    model.use({"beside": noting(model.cut().forward_features, called)}, Cores(1, 1))
    checked = list(called)  # before it serves; for three rows nothing was made
    assert {1, 3} <= set(checked)
    model.cut().forward_features(model.example(2))
    assert called == [*checked, 2]


def test_where_a_program_was_not_worth_it_the_trunk_goes_on(
    threads: Callable[[int], None],
) -> None:
    model = Model(make_manifest(), CPU)
    called: list[int] = []
    model.use({"alone": noting(model.cut().forward_features, called)}, FOUR)
    called.clear()
    for cores in (1, 4):
        threads(cores)
        model.cut().forward_features(model.example(1))
    assert called == [1]


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_a_trunk_that_programs_have_replaced_is_let_go_with_its_weights(
    precision: Precision,
) -> None:
    model = Model(make_manifest(), CPU, Loading(precision=precision))
    gone = [weakref.ref(weights) for weights in own_weights(model)]
    gc.disable()  # it would stop everybody, so it is not waited for
    try:
        model.use({"beside": model.portable_trunk()}, Cores(1, 1))
    finally:
        gc.enable()
    assert gone
    assert [ref() for ref in gone] == [None] * len(gone)


def own_weights(model: Model) -> Iterator[object]:
    """Of the trunk alone: laid out anew, or in another type."""
    trunk = model.cut().forward_features
    yield from (layer.weights for layer in trunk.modules() if isinstance(layer, Conv))
    yield from (weight for weight in trunk.parameters() if weight.dtype != torch.float32)


@pytest.mark.parametrize("wrong", [lambda y: y + 1, lambda y: y * torch.nan])
def test_a_program_that_gives_other_logits_is_refused_and_the_model_stays_as_it_is(
    wrong: Callable[[Tensor], Tensor],
) -> None:
    model = Model(make_manifest(), CPU)
    cut = model.cut()
    with pytest.raises(ModelCheckFailed, match="program"):
        model.use({"beside": lambda x: wrong(cut.forward_features(x))}, Cores(1, 1))
    assert model.cut() is cut


def test_models_that_nothing_could_be_gained_for_are_not_compiled(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    assert Model(make_manifest(), CPU).can_compile
    assert not Model(make_manifest(), CPU, Loading(fused=False)).can_compile  # weights may change
    lowered = Model(make_manifest(), CPU, Loading(precision="bf16"))
    for able in (True, False):
        monkeypatch.setattr(model_module, "computes_in", lambda _dtype, able=able: able)
        assert lowered.can_compile == able
