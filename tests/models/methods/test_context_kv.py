import copy

import pytest
import torch
import torch.nn.functional as F
from torch.utils._python_dispatch import TorchDispatchMode

from newllm.evaluation.agreement import cached_equals_uncached
from newllm.evaluation.cache import held_bytes
from newllm.evaluation.causality import certify
from newllm.models import create
from newllm.models.cache_layers import ChunkContextLayer
from newllm.models.projection import INIT_STD

IDS = torch.randint(512, (3, 43), generator=torch.Generator().manual_seed(0))
WIDTHS = [20, 12]


def build(**overrides):
    torch.manual_seed(0)
    return create("context-kv", "tiny", **{"context_dims": WIDTHS, **overrides}).double().eval()


def contexts_of(model, ids):
    embeds = model.normed_embeddings(ids)
    return torch.cat([block.unroll(embeds) for block in model.context_blocks], dim=-1)


def hidden_by_definition(model, ids, contexts, position):
    """Attention of one token over the list of contexts that the definition gives it, and what follows."""
    chunk = model.config.chunk_size
    attended = [contexts[end] for end in range(chunk - 1, position, chunk)] + [contexts[position]]
    embed = model.normed_embeddings(ids[position])
    attention, heads = model.attention, model.config.num_attention_heads
    query = attention.query(embed).view(heads, -1)
    keys = attention.key(torch.stack(attended)).view(len(attended), heads, -1)
    values = attention.value(torch.stack(attended)).view(len(attended), heads, -1)
    weights = (torch.einsum("hd,nhd->hn", query, keys) / query.shape[1] ** 0.5).softmax(-1)
    mixed = torch.einsum("hn,nhd->hd", weights, values).flatten()
    hidden = model.attention_norm(embed + mixed)
    inner = F.gelu(model.mlp.dense_h_to_4h(hidden))
    return hidden + model.mlp_norm(model.mlp.dense_4h_to_h(inner)), len(attended)


@pytest.mark.parametrize("chunk_size", [1, 8, 43, 100])
def test_follows_its_formula(chunk_size):
    model = build(chunk_size=chunk_size)
    logits = model(IDS[:1]).logits[0]
    contexts = contexts_of(model, IDS[:1])[0]
    for position in range(IDS.shape[1]):
        hidden, _ = hidden_by_definition(model, IDS[0], contexts, position)
        expected = hidden @ model.embed_in.weight.T
        assert torch.allclose(logits[position], expected, atol=1e-9, rtol=0)


def test_position_350_attends_to_four_contexts():
    """The specification's own example, with chunks of 100; and the last token of a chunk counts its context once."""
    model = build(chunk_size=100)
    ids = torch.arange(351) % 512
    contexts = contexts_of(model, ids[None])[0]
    counted = {at: hidden_by_definition(model, ids, contexts, at) for at in (0, 99, 100, 199, 350)}
    assert {at: count for at, (_, count) in counted.items()} == {0: 1, 99: 1, 100: 2, 199: 2, 350: 4}
    logits = model(ids[None]).logits[0]
    for position, (hidden, _) in counted.items():
        assert torch.allclose(logits[position], hidden @ model.embed_in.weight.T, atol=1e-9, rtol=0)


def test_shape_at_70m():
    with torch.device("meta"):
        model = create("context-kv", "70m")
    assert sum(parameter.numel() for parameter in model.parameters()) == 44_571_904
    assert model.embed_out.weight is model.embed_in.weight
    assert model.embed_in.weight.shape == (50257, 768)
    assert [tuple(part.weight.shape) for part in (model.attention.query, model.attention.key)] == [
        (768, 768),
        (768, 256),
    ]
    assert model.attention.num_heads == 8
    assert model.attention.scale == 96**-0.5
    assert model.mlp.dense_h_to_4h.weight.shape == (3072, 768)
    assert model.cached_values(350) == 4 * 256
    assert build().context_blocks[0].layer.linear.weight.std().item() == pytest.approx(INIT_STD, rel=0.1)


@pytest.mark.parametrize("overrides", [{"chunk_size": 1}, {"chunk_size": 5, "context_dims": [20, 12]}])
def test_certificate_and_cache_hold_with_other_chunks_and_blocks(overrides):
    model = build(**overrides)
    certificate = certify(model)
    assert certificate.passed, certificate.failures()
    agreement = cached_equals_uncached(model)
    assert agreement.max_error < 1e-9, agreement.errors


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
@pytest.mark.parametrize(("tokens", "pieces"), [(1, 1), (7, 7), (8, 3), (9, 1), (40, 13)])
def test_bytes_are_those_of_a_context_a_chunk(dtype, tokens, pieces):
    model = build().to(dtype)
    cache = model.new_cache()
    for piece in IDS[:, :tokens].split(pieces, dim=1):
        model(piece, past_key_values=cache)
    values = (tokens // 8 + 1) * sum(WIDTHS)
    assert held_bytes(cache) == 3 * values * dtype.itemsize
    assert model.cached_values(tokens) == values


@pytest.mark.parametrize("removed", [1, 3, 4, 11, 36])
def test_crop_with_recording_is_exact_at_every_side_of_a_chunk_and_with_padding(removed):
    """Rows of different lengths cross chunk ends at different tokens: 43 tokens, of which 0, 5 and 20 are padding."""
    model = build()
    mask = torch.ones(3, 60, dtype=torch.long)
    for row, padding in enumerate((0, 5, 20)):
        mask[row, :padding] = 0
    cache = model.new_cache()
    cache.activate_past_recording()
    for start, end in ((0, 17), (17, 18), (18, 43)):
        model(IDS[:, start:end], past_key_values=cache, attention_mask=mask[:, :end])
    cache.crop(-removed)
    kept = 43 - removed
    assert cache.layers[0].chunk_ends.shape == (3, kept // 8, sum(WIDTHS))
    other = IDS.flip(1)[:, : 60 - kept]
    ids = torch.cat([IDS[:, :kept], other], dim=1)
    mask = mask[:, : ids.shape[1]]
    expected = model(ids, attention_mask=mask).logits[:, kept:]
    continued = [
        model(other[:, at : at + 1], past_key_values=cache, attention_mask=mask[:, : kept + at + 1]).logits
        for at in range(other.shape[1])
    ]
    seen = mask[:, kept:].bool()
    assert torch.allclose(torch.cat(continued, dim=1)[seen], expected[seen], atol=1e-9, rtol=0)


def test_crop_needs_recording():
    model = build()
    cache = model.new_cache()
    model(IDS, past_key_values=cache)
    with pytest.raises(RuntimeError, match="activate_past_recording"):
        cache.crop(-1)


def test_unused_slots_are_not_seen():
    """A padded row has fewer chunks than the batch has slots; whatever stands in those must not matter."""
    model = build()
    mask = torch.ones(3, 43, dtype=torch.long)
    mask[1, :30] = 0
    results = []
    for filling in (0.0, 1e3):
        cache = model.new_cache()
        model(IDS[:, :42], past_key_values=cache, attention_mask=mask[:, :42])
        layer = cache.layers[0]
        assert isinstance(layer, ChunkContextLayer)
        assert layer.chunk_ends.shape == (3, 5, 32)
        layer.chunk_ends[1, 1:] = filling
        results.append(model(IDS[:, 42:], past_key_values=cache, attention_mask=mask).logits)
    assert torch.equal(*results)


class LargestTensor(TorchDispatchMode):
    """Notes the largest tensor that any operation gives."""

    def __init__(self):
        super().__init__()
        self.elements = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        for tensor in result if isinstance(result, tuple | list) else [result]:
            if isinstance(tensor, torch.Tensor):
                self.elements = max(self.elements, tensor.untyped_storage().nbytes() // tensor.element_size())
        return result


def test_training_holds_nothing_of_tokens_times_slots_times_width():
    model = build(chunk_size=4, vocab_size=64).train()
    ids = torch.arange(512)[None] % 64
    contexts = contexts_of(model, ids).detach()
    with LargestTensor() as largest:
        model(ids, labels=ids, contexts=contexts).loss.backward()
    tokens, slots, width, heads = 512, 128, sum(WIDTHS), model.config.num_attention_heads
    # Scores of each head with each slot and the token's own context are the largest thing there may be.
    assert tokens * slots < largest.elements <= heads * tokens * (slots + 1) < tokens * slots * width


def test_contexts_run_on_from_window_to_window():
    """Given contexts of the whole stream, a window's chunks are its own, but its contexts know what came before."""
    model = build(chunk_size=5)
    contexts = contexts_of(model, IDS[:1])[:, 13:]
    logits = model(IDS[:1, 13:], contexts=contexts).logits[0]
    for position in range(30):
        hidden, _ = hidden_by_definition(model, IDS[0, 13:], contexts[0], position)
        assert torch.allclose(logits[position], hidden @ model.embed_in.weight.T, atol=1e-9, rtol=0)


def test_the_frozen_stays_frozen_and_tied_when_loaded(tmp_path):
    model = build()
    model.save_pretrained(tmp_path)
    for made in (model, copy.deepcopy(model), type(model).from_pretrained(tmp_path)):
        assert made.embed_out.weight is made.embed_in.weight
        made.train().freeze_context_blocks()
        made(IDS, labels=IDS).loss.backward()
        trained = {name for name, parameter in made.named_parameters() if parameter.grad is not None}
        assert {name.split(".")[0] for name in trained} == {"attention", "attention_norm", "mlp", "mlp_norm"}


def test_frozen_is_a_choice():
    model = build(freeze_embedding=False, tie_word_embeddings=False)
    assert model.embed_in.weight.requires_grad
    assert model.embed_out.weight is not model.embed_in.weight


@pytest.mark.parametrize(
    ("setting", "reason"),
    [
        ({"context_dims": []}, "context_dims"),
        ({"context_dims": [256, 0]}, "context_dims"),
        ({"context_dims": 256}, "context_dims"),
        ({"chunk_size": 0}, "chunk_size"),
        ({"num_attention_heads": 7}, "multiple of num_attention_heads"),
    ],
)
def test_impossible_shapes_are_refused(setting, reason):
    with pytest.raises(ValueError, match=reason):
        create("context-kv", "tiny", **setting)
