import pytest
import torch

from newllm.evaluation.cache import held_bytes
from newllm.models import create
from newllm.models.growing_layer import GrowingLayer
from newllm.models.methods.context import SharedContextAttention
from newllm.models.projection import INIT_STD

IDS = torch.randint(512, (3, 40), generator=torch.Generator().manual_seed(0))


def build(**overrides):
    torch.manual_seed(0)
    return create("context", "tiny", **overrides).double().eval()


def through_cache(model, ids, pieces, cache=None, mask=None):
    cache = model.new_cache() if cache is None else cache
    past = cache.get_seq_length()
    logits = []
    for piece in ids.split(pieces, dim=1):
        past += piece.shape[1]
        seen = None if mask is None else mask[:, :past]
        logits.append(model(piece, past_key_values=cache, attention_mask=seen).logits)
    return torch.cat(logits, dim=1)


def test_parameters_at_70m():
    with torch.device("meta"):
        model = create("context", "70m")
    assert sum(parameter.numel() for parameter in model.parameters()) == 68_394_240
    assert model.gpt_neox.layers[0].input_layernorm.normalized_shape == (256,)
    assert model.cached_values(1) == 256
    assert build().projection.layer.linear.weight.std().item() == pytest.approx(INIT_STD, rel=0.1)


def test_follows_its_formula():
    """Token by token, from the definition: every layer reads the normed contexts, and nothing but them."""
    model = build()
    ids = IDS[:1, :12]
    contexts, context = [], torch.zeros(32, dtype=torch.float64)
    for embed in model.normed_embeddings(ids)[0]:
        context = model.projection(context, embed)
        contexts.append(context)
    hidden = model.context_to_hidden(torch.stack(contexts))
    positions = torch.arange(12)[None]
    causal = torch.ones(12, 12, dtype=torch.bool).tril()
    for layer in model.gpt_neox.layers:
        attention = layer.attention
        fused = attention.query_key_value(layer.input_layernorm(torch.stack(contexts)))
        queries, keys, values = fused.view(12, 4, 3, 16).permute(2, 1, 0, 3)
        queries = attention.position.rotate(queries[None], positions)[0]
        keys = attention.position.rotate(keys[None], positions)[0]
        weights = (queries @ keys.mT / 4).masked_fill(~causal, -torch.inf).softmax(-1)
        attended = attention.dense((weights @ values).transpose(0, 1).flatten(1))
        hidden = hidden + attended + layer.mlp(layer.post_attention_layernorm(hidden))
    expected = model.embed_out(model.gpt_neox.final_layer_norm(hidden))
    assert torch.allclose(model(ids).logits[0], expected, atol=1e-9, rtol=0)


@pytest.mark.parametrize("position", ["rope", "alibi", "none"])
@pytest.mark.parametrize("past", [0, 25])
@pytest.mark.parametrize("new", [1, 3, 15])
def test_absorbed_equals_expanded(monkeypatch, position, past, new):
    model = build(position=position)
    mask = torch.ones_like(IDS[:, : past + new])
    mask[1, : past // 3] = 0
    results = []
    for way in (SharedContextAttention.expanded, SharedContextAttention.absorbed):
        monkeypatch.setattr(SharedContextAttention, "absorbed", way)
        monkeypatch.setattr(SharedContextAttention, "expanded", way)
        pieces = [past, new] if past else [new]
        results.append(through_cache(model, IDS[:, : past + new], pieces, mask=mask))
    assert (results[0] - results[1])[mask.bool()].abs().max() < 1e-9


@pytest.mark.parametrize("position", ["rope", "alibi", "none"])
def test_a_decode_step_in_bfloat16_is_as_near_to_float64_as_its_expanded_form(monkeypatch, position):
    exact = build(position=position)
    expected = exact(IDS).logits[:, -1]
    rough = build(position=position).to(torch.bfloat16)
    errors = []
    for way in (SharedContextAttention.expanded, SharedContextAttention.absorbed):
        monkeypatch.setattr(SharedContextAttention, "absorbed", way)
        cache = rough(IDS[:, :-1], use_cache=True).past_key_values
        logits = rough(IDS[:, -1:], past_key_values=cache).logits[:, -1]
        errors.append((logits.double() - expected).abs().max() / expected.abs().max())
    in_expanded, in_absorbed = errors
    assert in_absorbed < min(1.1 * in_expanded, 0.05)


def test_a_fully_padded_start_leaves_a_zero_state():
    model = build()
    mask = torch.ones_like(IDS)
    mask[2, :10] = 0
    cache = model.new_cache()
    model(IDS[:, :10], past_key_values=cache, attention_mask=mask[:, :10])
    assert not cache.layers[0].keys[2].any()
    rest = model(IDS[:, 10:], past_key_values=cache, attention_mask=mask).logits
    assert torch.allclose(rest[2:], model(IDS[2:, 10:]).logits, atol=1e-9, rtol=0)


@pytest.mark.parametrize("removed", [1, 12, 40])
def test_crop_is_exact_without_recording(removed):
    model = build()
    cache = model.new_cache()
    through_cache(model, IDS, [30, 10], cache)
    cache.crop(-removed)
    kept = 40 - removed
    other = IDS.flip(1)[:, : removed + 3]
    continued = through_cache(model, other, [2, other.shape[1] - 2], cache)
    expected = model(torch.cat([IDS[:, :kept], other], dim=1)).logits[:, kept:]
    assert torch.allclose(continued, expected, atol=1e-9, rtol=0)
    assert not model._is_stateful


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
@pytest.mark.parametrize("tokens", [1, 40])
def test_bytes_are_those_of_one_context_a_token(dtype, tokens):
    model = build().to(dtype)
    cache = model.new_cache()
    model(IDS[:, :tokens], past_key_values=cache)
    assert [type(layer) for layer in cache.layers] == [GrowingLayer]
    assert held_bytes(cache) == 3 * model.cached_values(tokens) * dtype.itemsize == 3 * tokens * 32 * dtype.itemsize


def test_contexts_may_be_given():
    """Contexts collected before, of a stream of which the batch is a part, stand in for the recurrence."""
    model = build()
    contexts = model.projection.unroll(model.normed_embeddings(IDS))
    assert torch.allclose(model(IDS, contexts=contexts).logits, model(IDS).logits, atol=1e-12, rtol=0)
    assert not torch.allclose(model(IDS, contexts=contexts.flip(1)).logits, model(IDS).logits, atol=1e-3)
    with pytest.raises(ValueError, match=r"\(3, 40, 32\)"):
        model(IDS, contexts=contexts[:, 1:])


@pytest.mark.parametrize(("asked", "built"), [(256, 256), (300, 304), (250, 256)])
def test_context_width_is_rounded_to_the_heads(asked, built):
    model = create("context", "70m", num_hidden_layers=1, proj_dim=asked, vocab_size=64)
    assert model.config.proj_dim == built
    assert model(IDS % 64).logits.shape == (3, 40, 64)
