"""Machine code takes the batches that it was made for; the trunk, all others."""

from collections.abc import Callable
from itertools import product

import pytest
import torch
from torch import Tensor, nn

from app.backbones.compiled import Batch, Compiled
from app.backbones.model import Loading, Model
from app.errors import ModelCheckFailed
from tests.unit.conftest import make_manifest

CPU = torch.device("cpu")
SHAPE = torch.Size((3, 2, 2))


class Trunk(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x[:, :1] * 0


def program(called: list[int]) -> Callable[[Tensor], Tensor]:
    def run(x: Tensor) -> Tensor:
        assert x.is_contiguous(memory_format=torch.channels_last)
        called.append(len(x))
        return x[:, :1]

    return run


def pictures(rows: int) -> Tensor:
    return torch.arange(1.0, rows * 12 + 1).view(rows, *SHAPE)


@pytest.mark.parametrize(
    ("rows", "parts"),
    [(1, [1]), (2, [2]), (3, [2, 1]), (7, [4, 2, 1]), (8, [8]), (20, [8, 8, 4])],
)
def test_a_batch_is_split_into_those_that_there_are_programs_for(
    rows: int, parts: list[int]
) -> None:
    called: list[int] = []
    programs = {
        Batch(n, several): program(called) for n in (1, 2, 4, 8) for several in (False, True)
    }
    compiled = Compiled(Trunk(), SHAPE, programs)
    assert torch.equal(compiled(pictures(rows)), pictures(rows)[:, :1])
    assert called == parts


def test_a_batch_of_which_a_part_has_no_program_is_the_trunks() -> None:
    called: list[int] = []
    compiled = Compiled(Trunk(), SHAPE, {Batch(2): program(called)})
    assert not compiled(pictures(3)).any()
    assert called == []


def test_a_row_alone_has_a_program_for_one_core_and_one_for_several() -> None:
    one: list[int] = []
    several: list[int] = []
    compiled = Compiled(
        Trunk(), SHAPE, {Batch(1): program(one), Batch(1, several=True): program(several)}
    )
    before = torch.get_num_threads()
    try:
        for cores in (1, 2, 2):
            torch.set_num_threads(cores)
            compiled(pictures(1))
    finally:
        torch.set_num_threads(before)
    assert (one, several) == ([1], [1, 1])


@pytest.mark.parametrize(
    "x", [torch.ones(1, 3, 4, 4), torch.ones(1, *SHAPE, dtype=torch.float64), pictures(0)]
)
def test_what_no_program_was_made_for_is_the_trunks(x: Tensor) -> None:
    called: list[int] = []
    compiled = Compiled(Trunk(), SHAPE, {Batch(1, n): program(called) for n in (False, True)})
    compiled(x)
    assert called == []


@pytest.mark.parametrize(
    ("architecture", "precision"),
    list(product(["resnet18", "mobilenet_v3_small", "vit_b_32"], ["fp32", "bf16"])),
)
def test_what_a_compiler_begins_with_computes_what_the_trunk_does(
    architecture: str, precision: str
) -> None:
    model = Model(
        make_manifest(architecture=architecture, preprocess={"resize": 224, "crop": 224}),
        CPU,
        Loading(precision=precision),  # type: ignore[arg-type]
    )
    model.check_trunk("portable", model.portable_trunk(), rows=5)
    steps = str(model.portable_trunk())
    assert "BatchNorm" not in steps
    assert "_ConvWeights" not in steps


def test_a_model_takes_programs_that_give_its_logits_from_the_next_batch_on() -> None:
    model = Model(make_manifest(), CPU)
    trunk = model.cut().forward_features
    called: list[int] = []

    def faster(x: Tensor) -> Tensor:
        called.append(len(x))
        value: Tensor = trunk(x)
        return value

    model.use({Batch(2): faster})
    assert called == [2]  # checked before it serves
    model.cut().forward_features(model.example(2))
    assert called == [2, 2]


@pytest.mark.parametrize("wrong", [lambda y: y + 1, lambda y: y * torch.nan])
def test_a_program_that_gives_other_logits_is_refused_and_the_model_stays_as_it_is(
    wrong: Callable[[Tensor], Tensor],
) -> None:
    model = Model(make_manifest(), CPU)
    cut = model.cut()
    with pytest.raises(ModelCheckFailed, match="program"):
        model.use({Batch(1): lambda x: wrong(cut.forward_features(x))})
    assert model.cut() is cut


def test_models_that_nothing_could_be_gained_for_are_not_compiled() -> None:
    assert Model(make_manifest(), CPU).can_compile
    assert not Model(make_manifest(), CPU, Loading(fused=False)).can_compile  # weights may change
