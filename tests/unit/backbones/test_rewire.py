"""A graph that is run to show more computes the same."""

import torch
from torch import nn

from tests.unit.conftest import MakeModel


def test_attention_that_is_shown_leads_to_the_same_logits(make_model: MakeModel) -> None:
    model = make_model("vit_b_16")
    x = torch.randn(2, 3, 224, 224, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        logits, attention = model.attend(x)
        torch.testing.assert_close(logits, model.module(x), rtol=1e-4, atol=1e-5)
    assert [tuple(block.shape) for block in attention] == [(2, 12, 197, 197)] * 12
    for block in attention:
        torch.testing.assert_close(block.sum(dim=-1), torch.ones(2, 12, 197))


def test_attention_is_that_of_the_layer_itself(make_model: MakeModel) -> None:
    model = make_model("vit_b_16")
    layer = model.module.get_submodule("encoder.layers.encoder_layer_0.self_attention")
    assert isinstance(layer, nn.MultiheadAttention)
    seen: list[torch.Tensor] = []
    handle = layer.register_forward_pre_hook(lambda _layer, inputs: seen.append(inputs[0]))
    x = torch.randn(1, 3, 224, 224, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        model.module(x)
        handle.remove()
        _, theirs = layer(*[seen[0]] * 3, need_weights=True, average_attn_weights=False)
        _, ours = model.attend(x)
    torch.testing.assert_close(ours[0], theirs, rtol=1e-4, atol=1e-6)


def test_guided_relus_leave_the_logits_as_they_are(make_model: MakeModel) -> None:
    model = make_model("resnet18")
    x = torch.randn(1, 3, 224, 224, generator=torch.Generator().manual_seed(2))
    with torch.no_grad():
        torch.testing.assert_close(model.guided(x), model.module(x), rtol=1e-4, atol=1e-5)


def test_models_provide_what_they_have(make_model: MakeModel) -> None:
    assert "attention" in make_model("vit_b_16").provides
    assert "guided_gradients" not in make_model("vit_b_16").provides
    assert "attention" not in make_model("resnet18").provides
    assert "guided_gradients" in make_model("resnet18").provides
