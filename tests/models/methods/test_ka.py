"""Key attention: equal to its plain loop, and Pythia's weights load into it."""

import pytest
import torch
from huggingface_hub.errors import StrictDataclassError
from hypothesis import given, settings
from hypothesis import strategies as st

from newllm.evaluation.probing import logits_in_pieces
from newllm.models import create
from newllm.models.methods.ka import KAPythiaConfig, KAPythiaModel, attend_to_outputs
from newllm.models.position import causal_mask

IDS = torch.randint(512, (2, 24), generator=torch.Generator().manual_seed(0))


def create_tiny(**overrides):
    torch.manual_seed(1)
    return create("ka", "tiny", initializer_range=0.2, **overrides).double().eval()


def outputs_by_loop(weights, values):
    """The definition, token by token: weights (H, T, T), values (H, T, d)."""
    outputs = torch.zeros_like(values)
    for i in range(values.shape[1]):
        outputs[:, i] = weights[:, i, i, None] * values[:, i]
        for j in range(i):
            outputs[:, i] += weights[:, i, j, None] * outputs[:, j]
    return outputs


@settings(max_examples=40, deadline=None)
@given(
    length=st.integers(1, 40),
    sharpness=st.sampled_from([0.01, 1.0, 30.0]),
    cut=st.floats(0, 1),
    seed=st.integers(0, 99),
)
def test_triangular_solve_equals_the_loop(length, sharpness, cut, seed):
    generator = torch.Generator().manual_seed(seed)
    scores = sharpness * torch.randn(3, length, length, dtype=torch.float64, generator=generator)
    weights = (scores + causal_mask(length, length, torch.float64)).softmax(-1)
    values = torch.randn(3, length, 5, dtype=torch.float64, generator=generator)
    expected = outputs_by_loop(weights, values)
    past = int(cut * length)
    first = attend_to_outputs(weights[None, :, :past, :past], values[None, :, :past], torch.zeros(()))
    rest = weights[None, :, past:]
    second = attend_to_outputs(rest[..., past:], values[None, :, past:], rest[..., :past] @ first)
    found = torch.cat([first, second], dim=2)[0]
    assert torch.allclose(found, expected, atol=1e-9, rtol=0)


def test_first_output_is_its_value_and_outputs_stay_in_the_hull_of_values():
    weights = torch.rand(1, 2, 200, 200, dtype=torch.float64).tril()
    weights /= weights.sum(-1, keepdim=True)
    values = torch.randn(1, 2, 200, 3, dtype=torch.float64)
    outputs = attend_to_outputs(weights, values, torch.zeros(()))
    assert torch.equal(outputs[:, :, 0], values[:, :, 0])
    assert outputs.abs().max() <= values.abs().max() + 1e-9


@pytest.mark.parametrize("position", ["rope", "alibi", "none"])
def test_whole_model_equals_its_definition(position):
    """A one-layer model whose attention is recomputed by the loop from the projections it was given."""
    model = create_tiny(position=position, num_hidden_layers=1)
    attention = model.gpt_neox.layers[0].attention
    found = {}
    attention.register_forward_hook(
        lambda module, given, output: found.update(hidden=given[0], step=given[1], out=output)
    )
    model(IDS)
    queries, keys, values = attention.project(found["hidden"], found["step"])
    scores = queries @ keys.mT / 16**0.5 + causal_mask(24, 24, torch.float64)
    if position == "alibi":
        distance = torch.arange(24)[:, None] - torch.arange(24)
        scores = scores - 0.0625 * distance
    outputs = torch.stack([outputs_by_loop(w, v) for w, v in zip(scores.softmax(-1), values, strict=True)])
    expected = attention.dense(outputs.transpose(1, 2).flatten(2))
    assert torch.allclose(found["out"], expected, atol=1e-9, rtol=0)


def test_trained_pythia_loads_as_it_is(tmp_path):
    pythia = create("pythia", "tiny", position={"type": "rope", "rotary_fraction": 0.5}).double()
    pythia.save_pretrained(tmp_path)
    loaded, info = KAPythiaModel.from_pretrained(tmp_path, dtype=torch.float64, output_loading_info=True)
    assert not any(info.values()), info
    assert type(loaded) is KAPythiaModel
    assert loaded.config.position == pythia.config.position
    for name, parameter in pythia.named_parameters():
        assert torch.equal(loaded.get_parameter(name), parameter)
    ours, theirs = loaded.eval()(IDS).logits, pythia.eval()(IDS).logits
    # The first token sees only itself, so both are the same there; after it they are different models.
    assert torch.allclose(ours[:, 0], theirs[:, 0], atol=1e-9, rtol=0)
    assert (ours[:, 2:] - theirs[:, 2:]).abs().max() > 1e-6


def test_a_later_token_hears_the_first_only_through_outputs():
    """The cache holds outputs: replacing a cached value by another output changes what follows."""
    model = create_tiny()
    cache = model(IDS[:, :10], use_cache=True).past_key_values
    plain = create("pythia", "tiny").double().eval()
    plain.load_state_dict(model.state_dict())
    values = plain(IDS[:, :10], use_cache=True).past_key_values.layers[0].values
    outputs = cache.layers[0].values
    assert torch.allclose(outputs[:, :, 0], values[:, :, 0], atol=1e-12)
    assert (outputs - values)[:, :, 1:].abs().amin(-1).max() > 1e-6


def test_gradients_flow_through_what_the_cache_holds():
    model = create_tiny().train()
    model(IDS, labels=IDS).loss.backward()
    whole = {name: parameter.grad.clone() for name, parameter in model.named_parameters()}
    model.zero_grad()
    logits, _ = logits_in_pieces(model.eval(), IDS, [7, 1, 16])
    torch.nn.functional.cross_entropy(logits[:, :-1].flatten(0, 1), IDS[:, 1:].flatten()).backward()
    for name, parameter in model.named_parameters():
        assert torch.allclose(parameter.grad, whole[name], atol=1e-9, rtol=0), name


@pytest.mark.parametrize("autocast", [False, True])
def test_half_precision_runs_and_stays_close(autocast):
    model = create_tiny().float()
    expected = model(IDS).logits
    with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
        found = (model if autocast else model.bfloat16())(IDS).logits
    assert (found.float() - expected).abs().mean() < 0.1 * expected.abs().mean()


def test_shared_heads_are_refused():
    with pytest.raises(ValueError, match="no setting 'num_key_value_heads'"):
        create("ka", "tiny", num_key_value_heads=1)
    with pytest.raises(StrictDataclassError, match="num_key_value_heads=1 is not used by ka"):
        KAPythiaConfig(num_key_value_heads=1)
