"""The methods, against plain formulas in float64, and against each other where they must agree."""

import numpy as np
import pytest
import torch
from torch import Tensor

from app.explain.registry import methods

RNG = np.random.default_rng(0)


def batch(*shape: int) -> Tensor:
    return torch.from_numpy(RNG.normal(size=shape).astype(np.float32))


def compute(name: str, **values: object) -> Tensor:
    method = methods()[name]
    return method.compute(**{need: values[need] for need in method.info.needs})


def assert_close(ours: Tensor, theirs: Tensor, tolerance: float = 1e-5) -> None:
    torch.testing.assert_close(
        ours.double(), theirs.double(), rtol=0, atol=tolerance * float(theirs.abs().max())
    )


def test_every_method_file_is_found_under_its_own_name() -> None:
    found = methods()
    assert {"gradcam", "finercam", "saliency", "chefer"} <= set(found)
    for name, method in found.items():
        assert method.info.name == name
        assert method.compute.__module__ == f"app.explain.{name}"
        assert method.info.paper.startswith("https://")


def test_what_a_method_needs_is_what_its_function_takes() -> None:
    needs = {name: method.info.needs for name, method in methods().items()}
    assert needs["gradcam"] == ("activations", "gradients")
    assert needs["eigencam"] == ("activations",)
    assert needs["chefer"] == ("attention", "attention_gradients")


def test_gradcam_weighs_channels_by_their_mean_gradient() -> None:
    activations, gradients = batch(3, 5, 4, 6), batch(3, 5, 4, 6)
    weights = gradients.double().mean(dim=(2, 3), keepdim=True)
    ours = compute("gradcam", activations=activations, gradients=gradients)
    assert_close(ours, (weights * activations).sum(dim=1))
    assert ours.min() < 0  # signed: the ReLU belongs to the picture


@pytest.mark.parametrize("scale", [1e-12, 1e-4, 1.0, 1e4])
def test_gradcam_plusplus_is_equation_19_whatever_the_scale_of_the_gradient(scale: float) -> None:
    activations, gradients = batch(2, 5, 4, 6).clamp(min=0), batch(2, 5, 4, 6) * scale
    a, g = activations.double(), gradients.double()
    alpha = g**2 / (2 * g**2 + a.sum(dim=(2, 3), keepdim=True) * g**3)
    expected = ((alpha * g.clamp(min=0)).sum(dim=(2, 3), keepdim=True) * a).sum(dim=1)
    assert_close(
        compute("gradcam_plusplus", activations=activations, gradients=gradients), expected
    )


def test_gradcam_plusplus_of_no_gradient_is_nothing() -> None:
    maps = compute(
        "gradcam_plusplus", activations=batch(1, 2, 3, 3), gradients=torch.zeros(1, 2, 3, 3)
    )
    assert not maps.any()


def test_xgradcam_of_channels_that_cancel_out_is_finite() -> None:
    activations = batch(1, 2, 2, 2)
    activations[:, 0] = torch.tensor([[1.0, -1.0], [2.0, -2.0]])
    gradients = batch(1, 2, 2, 2)
    ours = compute("xgradcam", activations=activations, gradients=gradients)
    only = compute("xgradcam", activations=activations[:, 1:], gradients=gradients[:, 1:])
    assert_close(ours, only)


@pytest.mark.parametrize("shape", [(3, 5, 4, 6), (2, 40, 3, 3)], ids=["few channels", "many"])
def test_eigencam_is_the_projection_on_the_first_singular_vector(shape: tuple[int, ...]) -> None:
    activations = batch(*shape)
    for values, ours in zip(activations, compute("eigencam", activations=activations), strict=True):
        matrix = values.flatten(1).T.double()  # [hw, C]
        _, _, rows = torch.linalg.svd(matrix)
        expected = (matrix @ rows[0]).view(ours.shape)
        assert_close(ours, expected * torch.sign((expected * ours).sum()))
        assert (ours * values.mean(dim=0)).sum() >= 0


def test_eigencam_of_activations_turned_around_is_turned_around() -> None:
    activations = batch(2, 5, 4, 4)
    assert_close(
        compute("eigencam", activations=-activations),
        -compute("eigencam", activations=activations),
    )


def test_a_row_of_numbers_that_are_not_finite_does_not_stop_the_others() -> None:
    activations = batch(2, 5, 4, 4)
    activations[1, 2, 0, 0] = torch.nan
    ours = compute("eigencam", activations=activations)
    assert_close(ours[:1], compute("eigencam", activations=activations[:1]))
    assert not ours[1].isfinite().all()


def test_layercam_of_several_layers_shows_the_early_ones() -> None:
    layercam = methods()["layercam"]
    assert layercam.fuse is not None
    early, late = batch(2, 12, 8).abs() * 1e-6, batch(2, 3, 2) * 1e3
    fused = layercam.fuse([late, early])
    assert fused.shape == (2, 12, 8)
    assert (fused >= torch.tanh(2 * early / early.amax(dim=(1, 2), keepdim=True)) - 1e-6).all()
    assert_close(fused, layercam.fuse([early, late]))
    assert not layercam.fuse([-early.abs(), -early.abs()]).any()


def test_finercam_compares_with_the_nearest_classes_or_with_those_named() -> None:
    objective = methods()["finercam"].objective
    logits = np.array([5.0, 1.0, 4.0, -9.0, 3.0], np.float32)
    assert objective(logits, 0, ()) == pytest.approx({0: 1, 1: -0.2, 2: -0.2, 4: -0.2})
    for against in ((3,), (0, 3), (3, 3)):
        assert objective(logits, 0, against) == pytest.approx({0: 1, 3: -0.6})
    assert objective(logits[:1], 0, ()) == {0: 1}


def test_attention_rollout_multiplies_the_blocks_in_their_order() -> None:
    blocks = [torch.softmax(batch(2, 3, 5, 5), dim=-1) for _ in range(3)]
    identity = np.eye(5)
    for row, ours in enumerate(compute("attention_rollout", attention=blocks)):
        first, second, third = (0.5 * b[row].mean(dim=0).double().numpy() + 0.5 * identity
                                for b in blocks)  # fmt: skip
        assert_close(ours, torch.from_numpy((third @ second @ first)[0]))
        assert float(ours.sum()) == pytest.approx(1)


def test_chefer_adds_what_is_relevant_block_by_block() -> None:
    blocks = [torch.softmax(batch(2, 3, 5, 5), dim=-1) for _ in range(2)]
    gradients = [batch(2, 3, 5, 5) for _ in range(2)]
    ours = compute("chefer", attention=blocks, attention_gradients=gradients)
    for row in range(2):
        relevance = np.eye(5)
        for block, gradient in zip(blocks, gradients, strict=True):
            weighed = np.maximum((block[row] * gradient[row]).double().numpy(), 0).mean(axis=0)
            relevance = relevance + weighed @ relevance
        assert_close(ours[row], torch.from_numpy(relevance[0]))


def on_a_linear_head(*, signed: bool) -> dict[str, Tensor]:
    """Pooling and one linear layer: the gradient is W[c] / (h·w) in every cell."""
    activations = batch(2, 8, 4, 5) if signed else batch(2, 8, 4, 5).abs()
    weight = batch(2, 8)
    gradients = (weight / 20)[:, :, None, None].expand(-1, -1, 4, 5)
    cam = torch.einsum("nc,nchw->nhw", weight, activations) / 20
    positive = torch.einsum("nc,nchw->nhw", weight.clamp(min=0), activations) / 20
    return {"activations": activations, "gradients": gradients, "cam": cam, "positive": positive}


@pytest.mark.parametrize("name", ["gradcam", "hirescam", "xgradcam", "finercam"])
def test_on_pooling_and_a_linear_head_these_are_cam(name: str) -> None:
    head = on_a_linear_head(signed=True)
    assert_close(compute(name, **head), head["cam"])


def test_on_pooling_and_a_linear_head_layercam_is_cam_of_the_positive_weights() -> None:
    head = on_a_linear_head(signed=False)
    assert_close(compute("layercam", **head), head["positive"])


def test_on_pooling_and_a_linear_head_gradcam_plusplus_with_alphas_that_sum_to_one_is_too() -> None:
    # The authors' code divides the alphas of a channel by their sum; where the gradient is the same
    # in every cell, so are the alphas, and that leaves 1 / (2 + ΣA g) · h·w of ours.
    head = on_a_linear_head(signed=False)
    activations, gradients = head["activations"], head["gradients"]
    total = activations.sum(dim=(2, 3))
    alpha = 20 / (2 + total * gradients[:, :, 0, 0])
    weights = gradients[:, :, 0, 0].clamp(min=0)
    expected = torch.einsum("nc,nchw->nhw", alpha * weights, activations)
    assert_close(compute("gradcam_plusplus", **head), expected)
    assert_close(torch.einsum("nc,nchw->nhw", weights, activations), head["positive"])


def test_input_methods_reduce_the_colours() -> None:
    inputs, gradients = batch(2, 3, 4, 5), batch(2, 3, 4, 5)
    values = {"inputs": inputs, "input_gradients": gradients}
    assert_close(compute("saliency", **values), gradients.abs().max(dim=1).values)
    assert_close(compute("input_x_gradient", **values), (inputs * gradients).sum(dim=1))
