"""Latent attention: both paths, what is cached, and what is refused."""

import copy

import pytest
import torch
from huggingface_hub.errors import StrictDataclassError
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import DeepseekV3Config, DeepseekV3ForCausalLM

from newllm.evaluation.agreement import cached_equals_uncached
from newllm.evaluation.cache import measure
from newllm.evaluation.causality import certify
from newllm.evaluation.probing import logits_in_pieces
from newllm.models import create
from newllm.models.growing_layer import GrowingLayer
from newllm.models.methods.mla import LatentAttention

POSITIONS = ["alibi", "rope", "none"]
# What a retrofit needs: rotary keys of several heads, a key that is partly or wholly rotated, biases, chosen pairs.
FORMS = {
    "shared rotary key": {},
    "a rotary key a group": {"rotary_heads": 2, "key_dim": 12, "rotary_dim": 4},
    "a rotary key a head": {"rotary_heads": 4, "key_dim": 12, "rotary_dim": 4, "attention_biases": "all"},
    "keys wholly rotated": {"rotary_heads": 2, "key_dim": 0, "rotary_dim": 16, "attention_biases": "inputs"},
    "one key, wholly rotated": {"key_dim": 0, "rotary_dim": 16},
    "on Llama's blocks": {"rotary_heads": 2, "key_dim": 8, "rotary_dim": 8, "backbone": "llama"},
}
IDS = torch.randint(512, (2, 24), generator=torch.Generator().manual_seed(0))


def create_tiny(path="auto", **overrides):
    """The tiny model in float64 with weights so large that positions and latents matter."""
    torch.manual_seed(1)
    model = create("mla", "tiny", initializer_range=0.2, **overrides).double().eval()
    model.attention_path = path
    return model


def with_path(model, path):
    changed = copy.deepcopy(model)
    changed.attention_path = path
    return changed


@pytest.mark.parametrize(("kv_dim", "saved"), [(64, 0.9375), (128, 0.875), (256, 0.75)])
def test_values_cached_at_70m(kv_dim, saved):
    with torch.device("meta"):
        plain, rotary = (create("mla", "70m", kv_dim=kv_dim, position=position) for position in ("alibi", "rope"))
        pythia = create("pythia", "70m")
    assert plain.cached_values(1000) == 6 * kv_dim * 1000
    assert rotary.cached_values(1000) == 6 * (kv_dim + 16) * 1000
    assert 1 - plain.cached_values(1) / pythia.cached_values(1) == saved


def test_position_is_alibi_with_slope_a_sixteenth_by_default():
    config = create("mla", "tiny").config
    assert (config.position.type, config.position.alibi_slope) == ("alibi", 0.0625)


@pytest.mark.parametrize(
    ("path", "settings"),
    [
        ("absorbed", {"position": "rope"}),
        ("absorbed", {"position": "alibi"}),
        ("expanded", {"position": "alibi"}),
        ("absorbed", {"alibi_slopes_by_head": True}),
    ],
)
def test_certificate_and_cache_of_each_path_alone(path, settings):
    model = create_tiny(path, **settings)
    certificate = certify(model)
    assert certificate.passed, certificate.failures()
    agreement = cached_equals_uncached(model)
    assert agreement.agrees, agreement.errors
    assert measure(model, 37).agrees


@pytest.mark.parametrize("form", list(FORMS)[1:])
def test_certificate_cache_and_bytes_of_each_form(form):
    model = create_tiny(position="rope", kv_dim=20, **FORMS[form])
    certificate = certify(model)
    assert certificate.passed, certificate.failures()
    agreement = cached_equals_uncached(model)
    assert agreement.agrees, agreement.errors
    report = measure(model, 37)
    rotary = FORMS[form]["rotary_dim"] * FORMS[form].get("rotary_heads", 1)
    assert report.agrees and report.measured_bytes == 2 * 37 * (20 + rotary) * 4


@settings(max_examples=20, deadline=None)
@given(
    form=st.sampled_from(sorted(FORMS)),
    kv_dim=st.integers(1, 40),
    pieces=st.lists(st.integers(1, 9), min_size=1, max_size=6),
    padding=st.integers(0, 4),
)
def test_absorbed_equals_expanded_in_each_form(form, kv_dim, pieces, padding):
    expanded = create_tiny("expanded", position="rope", kv_dim=kv_dim, **FORMS[form])
    with torch.no_grad():
        for name, weight in expanded.named_parameters():
            if name.endswith("bias"):
                weight.normal_(generator=torch.Generator().manual_seed(3))
    ids = torch.randint(512, (2, sum(pieces)), generator=torch.Generator().manual_seed(kv_dim))
    mask = torch.ones_like(ids)
    mask[0, :padding] = 0
    first, second = (
        logits_in_pieces(model, ids, pieces, mask)[0] for model in (expanded, with_path(expanded, "absorbed"))
    )
    assert torch.allclose(first[mask.bool()], second[mask.bool()], atol=1e-9, rtol=0)


def test_chosen_pairs_turn_by_the_frequencies_of_the_wider_head():
    """All pairs in order are what is usual; others are other angles, also for the queries of their group."""
    settings = {"position": "rope", "rotary_heads": 2, "rotary_dim": 16, "key_dim": 0}
    usual = create_tiny(**settings)

    def with_pairs(pairs):
        config = type(usual.config)(**{**usual.config.to_dict(), "rotary_pairs": pairs})
        model = type(usual)(config).double().eval()
        model.load_state_dict(usual.state_dict())
        return model

    everything = [[list(range(8))] * 2] * 2
    assert torch.equal(with_pairs(everything)(IDS).logits, usual(IDS).logits)
    other = with_pairs([[list(range(8)), [7, 6, 5, 4, 3, 2, 1, 0]]] * 2)
    assert (other(IDS).logits - usual(IDS).logits).abs().max() > 1e-3
    pieces = logits_in_pieces(other, IDS, [5, 1, 1, 17])[0]
    assert torch.allclose(pieces, other(IDS).logits, atol=1e-9, rtol=0)
    for pairs in ([[[0] * 8] * 2], [[[0] * 7] * 2] * 2, [[[8] * 8] * 2] * 2):
        with pytest.raises(StrictDataclassError, match="rotary_pairs must be 8 numbers from 0 to 7 for each of 2"):
            with_pairs(pairs)


def test_latents_of_unequal_widths(tmp_path):
    config = type(create_tiny().config)(**{**create_tiny().config.to_dict(), "kv_dims": [5, 30]})
    model = type(create_tiny())(config).double().eval()
    assert model.cached_values(10) == 350 and measure(model, 10).agrees
    model.save_pretrained(tmp_path)
    again = type(model).from_pretrained(tmp_path, dtype=torch.float64).eval()
    assert torch.equal(again(IDS).logits, model(IDS).logits)


@settings(max_examples=25, deadline=None)
@given(
    position=st.sampled_from(POSITIONS),
    kv_dim=st.integers(1, 40),
    pieces=st.lists(st.integers(1, 9), min_size=1, max_size=6),
    padding=st.integers(0, 4),
)
def test_absorbed_equals_expanded(position, kv_dim, pieces, padding):
    expanded = create_tiny("expanded", position=position, kv_dim=kv_dim)
    absorbed = with_path(expanded, "absorbed")
    ids = torch.randint(512, (2, sum(pieces)), generator=torch.Generator().manual_seed(kv_dim))
    mask = torch.ones_like(ids)
    mask[0, :padding] = 0
    first, second = (logits_in_pieces(model, ids, pieces, mask)[0] for model in (expanded, absorbed))
    assert torch.allclose(first[mask.bool()], second[mask.bool()], atol=1e-9, rtol=0)


def test_slopes_by_head_are_seen_by_both_paths():
    expanded = create_tiny("expanded", alibi_slopes_by_head=True)
    pieces = [5, 1, 1, 6, 1, 10]
    first, second, third = (
        logits_in_pieces(model, IDS, pieces)[0]
        for model in (expanded, with_path(expanded, "absorbed"), create_tiny("expanded"))
    )
    assert torch.allclose(first, second, atol=1e-9, rtol=0)
    assert (first - third).abs().max() > 1e-3


@pytest.mark.parametrize("path", ["absorbed", "expanded"])
def test_positions_matter(path):
    logits = [create_tiny(path, position=position)(IDS).logits for position in ("alibi", "none")]
    assert (logits[0] - logits[1]).abs().max() > 1e-3
    rotary = create_tiny(path, position="rope")
    shifted = torch.arange(24)[None] * 2
    assert (rotary(IDS).logits - rotary(IDS, position_ids=shifted).logits).abs().max() > 1e-3


def test_decoding_builds_neither_keys_nor_values():
    model = create_tiny()
    cache = model(IDS, use_cache=True).past_key_values
    built = []
    for part in model.modules():
        if isinstance(part, LatentAttention):
            for expansion in (part.expand_keys, part.expand_values):
                expansion.register_forward_hook(lambda module, given, output: built.append(output.shape))
    model(IDS[:, :1], past_key_values=cache)
    assert not built
    model(IDS)
    assert built


def test_auto_expands_where_that_is_less_work():
    """kv_dim 24 and heads of 16: absorbed while T (24 - 16) < 24 x 16, that is up to 47 new tokens."""
    model = create_tiny(kv_dim=24)
    attention = model.gpt_neox.layers[0].attention
    taken = []
    for name in ("_absorbed", "_expanded"):
        original = getattr(attention, name)
        setattr(attention, name, lambda *given, name=name, original=original: taken.append(name) or original(*given))
    ids = torch.arange(50)[None]
    for new_tokens in (47, 48):
        cache = model(ids[:, :1], use_cache=True).past_key_values
        model(ids[:, :new_tokens], past_key_values=cache)
    model.train()(ids, labels=ids)
    assert taken == ["_expanded", "_absorbed", "_expanded", "_expanded", "_expanded"]


def test_training_is_the_same_function_whatever_the_path():
    losses = [create_tiny(path).train()(IDS, labels=IDS).loss for path in ("auto", "absorbed", "expanded")]
    assert losses[0] == losses[1] == losses[2]


@pytest.mark.parametrize("position", POSITIONS)
def test_latents_lie_in_the_stock_layer(position):
    model = create_tiny(position=position)
    cache = model(IDS, use_cache=True).past_key_values
    for layer in cache.layers:
        assert type(layer) is GrowingLayer
        assert layer.keys.shape == (2, 1, 24, 16 + 16 * (position == "rope"))
        assert layer.values.numel() == 0


@pytest.mark.parametrize("position", POSITIONS)
def test_save_and_load(position, tmp_path):
    model = create_tiny(path="absorbed", position=position, kv_dim=9)
    model.save_pretrained(tmp_path)
    loaded, info = type(model).from_pretrained(tmp_path, dtype=torch.float64, output_loading_info=True)
    assert not any(info.values()), info
    assert loaded.attention_path == loaded.config.attention_path == "absorbed"
    assert torch.equal(loaded.eval()(IDS).logits, model(IDS).logits)


@pytest.mark.parametrize("path", ["absorbed", "expanded"])
def test_rotary_variant_equals_deepseek(path):
    """Attention of transformers' DeepSeek-V3 with the same weights, its norm on the latent taken out."""
    shape = {"vocab_size": 512, "hidden_size": 64, "intermediate_size": 256, "num_hidden_layers": 1}
    theirs = DeepseekV3ForCausalLM(
        DeepseekV3Config(
            **shape,
            num_attention_heads=4,
            num_key_value_heads=4,
            kv_lora_rank=16,
            q_lora_rank=None,
            qk_rope_head_dim=16,
            qk_nope_head_dim=16,
            v_head_dim=16,
            first_k_dense_replace=1,
            rope_interleave=False,
            num_mtp_layers=0,
        )
    ).double()
    attention = theirs.model.layers[0].self_attn
    attention.kv_a_layernorm = torch.nn.Identity()
    ours = create_tiny(path, position="rope", num_hidden_layers=1).gpt_neox.layers[0].attention
    with torch.no_grad():
        by_head = torch.cat([ours.query.weight.view(4, 16, 64), ours.rotary_query.weight.view(4, 16, 64)], dim=1)
        attention.q_proj.weight.copy_(by_head.reshape(-1, 64))
        attention.kv_a_proj_with_mqa.weight.copy_(torch.cat([ours.compress.weight, ours.rotary_key.weight]))
        by_head = torch.cat([ours.expand_keys.weight.view(4, 16, 16), ours.expand_values.weight.view(4, 16, 16)], dim=1)
        attention.kv_b_proj.weight.copy_(by_head.reshape(-1, 16))
        attention.o_proj.weight.copy_(ours.dense.weight)
    hidden = torch.randn(2, 24, 64, dtype=torch.float64, generator=torch.Generator().manual_seed(2))
    found = {}
    hook = ours.register_forward_hook(lambda module, given, output: found.update(ours=output))
    model = create_tiny(path, position="rope", num_hidden_layers=1)
    model.gpt_neox.layers[0].attention = ours
    model.gpt_neox.layers[0].input_layernorm = Replace(hidden)
    model(IDS)
    hook.remove()
    positions = theirs.model.rotary_emb(hidden, torch.arange(24)[None])
    causal = torch.full((24, 24), -torch.inf, dtype=torch.float64).triu(1)[None, None]
    expected = attention(hidden, positions, causal)[0]
    assert torch.allclose(found["ours"], expected, atol=1e-7, rtol=0)


class Replace(torch.nn.Module):
    """Give the same output whatever comes in."""

    def __init__(self, output):
        super().__init__()
        self.output = output

    def forward(self, given):
        return self.output


@pytest.mark.parametrize(
    ("overrides", "reason"),
    [
        ({"kv_dim": 0}, "kv_dim=0"),
        ({"position": "rope", "rotary_dim": 3}, "rotary_dim=3 must be even"),
        ({"attention_path": "absorbed"}, "mla has no setting 'attention_path'"),
        ({"num_key_value_heads": 1}, "mla has no setting 'num_key_value_heads'"),
        ({"rotary_dim": 8}, "rotary_dim=8 does nothing without RoPE"),
        ({"rotary_heads": 2}, "rotary_heads=2 does nothing without RoPE"),
        ({"position": "rope", "rotary_heads": 3}, "rotary_heads=3 must divide"),
        ({"key_dim": 0}, "key_dim=0 must be at least 1"),
        ({"attention_biases": "some"}, "choose one of none, inputs, all"),
        ({"position": {"type": "rope", "rotary_fraction": 0.25}}, "rotary_fraction=0.25 is not free"),
        ({"position": {"type": "rope", "rotary_fraction": 0.5}}, "rotary_fraction=0.5 is not free"),
    ],
)
def test_impossible_requests_are_refused(overrides, reason):
    with pytest.raises(ValueError, match=reason):
        create("mla", "tiny", **overrides)


def test_an_unknown_path_is_refused():
    model = create_tiny()
    with pytest.raises(ValueError, match="attention_path='fast' is unknown: choose one of auto, absorbed, expanded"):
        model.attention_path = "fast"
    with pytest.raises(StrictDataclassError, match="choose one of"):
        type(model.config)(attention_path="fast")
