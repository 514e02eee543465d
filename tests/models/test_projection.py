import pytest
import torch
import torch.nn.functional as F
from torch import nn

from newllm.models import create
from newllm.models.projection import DiverseProjection, DiverseProjectionLayer, init_linear_weights


def test_one_step_is_the_formula():
    torch.manual_seed(0)
    projection = DiverseProjection(6, 4).double()
    prev, embeds = torch.randn(5, 4).double(), torch.randn(5, 6).double()
    linear = projection.layer.linear
    inner = F.gelu(torch.cat([prev, embeds], -1) @ linear.weight.T + linear.bias)
    expected = F.layer_norm(prev + inner, (4,), eps=1e-5)
    assert torch.allclose(projection(prev, embeds), expected, atol=1e-12, rtol=0)


def test_unroll_is_step_after_step_and_padding_changes_nothing():
    torch.manual_seed(0)
    projection = DiverseProjection(6, 4).double()
    embeds = torch.randn(2, 9, 6).double()
    state = torch.zeros(2, 4).double()
    contexts = projection.unroll(embeds)
    for position in range(9):
        state = projection(state, embeds[:, position])
        assert torch.allclose(contexts[:, position], state, atol=1e-12, rtol=0)
    mask = torch.ones(2, 12, dtype=torch.bool)
    mask[:, :3] = False
    padded = torch.cat([torch.randn(2, 3, 6).double(), embeds], 1)
    assert torch.allclose(projection.unroll(padded, token_mask=mask)[:, 3:], contexts, atol=1e-12, rtol=0)
    resumed = projection.unroll(embeds[:, 4:], state=contexts[:, 3])
    assert torch.allclose(resumed, contexts[:, 4:], atol=1e-12, rtol=0)


@pytest.mark.parametrize("widths", [(4, 4), (4, 7)])
def test_residual_projection_only_where_widths_differ(widths):
    layer = DiverseProjectionLayer(*widths, 5)
    assert (layer.residual_proj is None) == (widths[0] == widths[1])
    assert layer(torch.randn(3, widths[0]), torch.randn(3, 5)).shape == (3, widths[1])


def test_init_linear_weights_has_its_deviations():
    torch.manual_seed(0)
    linear = nn.Linear(300, 300)
    init_linear_weights(nn.Sequential(linear))
    assert linear.weight.std().item() == pytest.approx(0.1, rel=0.02)
    assert linear.bias.std().item() == pytest.approx(0.01, rel=0.15)


def test_model_wide_initialisation_spares_the_recurrence():
    torch.manual_seed(0)
    model = create("dproj", "mini")
    assert model.projection.layer.linear.weight.std().item() == pytest.approx(0.1, rel=0.02)
    assert model.gpt_neox.embed_in.weight.std().item() == pytest.approx(0.02, rel=0.02)


def test_freezing_takes_recurrence_and_embed_norm_out_of_training():
    model = create("dproj", "tiny")
    model.freeze_context_blocks()
    model(torch.arange(12)[None], labels=torch.arange(12)[None]).loss.backward()
    frozen = {name for name, parameter in model.named_parameters() if not parameter.requires_grad}
    assert frozen == {name for name, _ in model.named_parameters() if "embed_norm" in name or "context_blocks" in name}
    for name, parameter in model.named_parameters():
        assert (parameter.grad is None) == (name in frozen), name


def test_the_projection_of_a_model_with_several_is_none_of_them():
    with pytest.raises(TypeError, match="2 context blocks"):
        _ = create("cascade", "tiny").projection
