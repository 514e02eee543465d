"""Cascade: its definition, its size, and what it keeps, whatever the length."""

from typing import cast

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import AutoModelForCausalLM, DynamicCache
from transformers.cache_utils import Cache

from newllm.evaluation.cache import held_bytes
from newllm.models import create, sizes
from newllm.models.methods.cascade import CascadeContextLLM
from newllm.models.projection import DiverseProjection, unroll_side_by_side

EXACT = 1e-9
VARIANTS = [(context, tied) for context in ("previous", "current") for tied in (True, False)]


def small(**overrides) -> CascadeContextLLM:
    torch.manual_seed(0)
    model = create("cascade", "tiny", **overrides)
    assert isinstance(model, CascadeContextLLM)
    return model


def exact(**overrides) -> CascadeContextLLM:
    return small(**overrides).double().eval()


def tokens(rows: int, length: int, seed: int = 0) -> torch.Tensor:
    return torch.randint(0, 512, (rows, length), generator=torch.Generator().manual_seed(seed))


def contexts_after(model: CascadeContextLLM, ids: torch.Tensor) -> torch.Tensor:
    return unroll_side_by_side(model.context_blocks, model.normed_embeddings(ids))


def by_definition(model: CascadeContextLLM, ids: torch.Tensor) -> torch.Tensor:
    """Logits (T, V) of one sequence, token by token, as the formulas of the design stand."""

    def norm(part: torch.nn.LayerNorm, value: torch.Tensor) -> torch.Tensor:
        centred = value - value.mean()
        return centred / (centred.square().mean() + 1e-5).sqrt() * part.weight + part.bias

    contexts = [torch.zeros(model.config.context_dim, dtype=torch.float64) for _ in model.context_blocks]
    logits = []
    for token in ids:
        embed = norm(model.embed_norm, model.embed_in.weight[token])
        before = torch.cat(contexts)
        for index, block in enumerate(cast(list[DiverseProjection], model.context_blocks)):
            linear = block.layer.linear
            mixed = linear.weight @ torch.cat([contexts[index], embed]) + linear.bias
            contexts[index] = norm(block.layer.norm, contexts[index] + F.gelu(mixed))
        read = before if model.config.token_context == "previous" else torch.cat(contexts)
        mixed = model.token_block.linear.weight @ torch.cat([read, embed]) + model.token_block.linear.bias
        hidden = norm(model.token_block.norm, embed + F.gelu(mixed))
        logits.append(model.embed_out.weight @ hidden)
    return torch.stack(logits)


@pytest.mark.parametrize(("tied", "expected"), [(True, 41_230_040), (False, 79_827_416)])
def test_parameter_count_at_70m(tied, expected):
    with torch.device("meta"):
        model = create("cascade", "70m", tie_word_embeddings=tied)
    assert sum(parameter.numel() for parameter in model.parameters()) == expected
    assert model.cached_values(1) == model.cached_values(100_000) == 2 * 500


@pytest.mark.parametrize("size", sizes())
def test_sizes_keep_the_ratios(size):
    with torch.device("meta"):
        config = create("cascade", size).config
    assert config.context_dim / config.hidden_size == pytest.approx(500 / 768, rel=0.05)
    assert config.context_dim % 4 == 0


@torch.no_grad()
@pytest.mark.parametrize(("context", "tied"), VARIANTS)
@pytest.mark.parametrize(("blocks", "width"), [(1, 24), (2, 12), (4, 6)])
def test_logits_are_those_of_the_definition(context, tied, blocks, width):
    model = exact(token_context=context, tie_word_embeddings=tied, num_blocks=blocks, context_dim=width)
    ids = tokens(1, 7)
    torch.testing.assert_close(model(ids).logits[0], by_definition(model, ids[0]), rtol=0, atol=EXACT)
    assert model.cached_values(7) == 24


def test_the_recurrences_keep_their_own_initialisation():
    model = small(num_blocks=3)
    for linear in [*(block.layer.linear for block in model.context_blocks), model.token_block.linear]:
        assert linear.weight.std().item() == pytest.approx(0.1, rel=0.05)
        assert linear.bias.std().item() == pytest.approx(0.01, rel=0.4)
    assert not torch.equal(*(block.layer.linear.weight for block in list(model.context_blocks)[:2]))


@torch.no_grad()
@settings(deadline=None, max_examples=20)
@given(
    pieces=st.lists(st.integers(1, 5), min_size=1, max_size=5),
    padding=st.lists(st.integers(0, 4), min_size=1, max_size=3),
    context=st.sampled_from(["previous", "current"]),
)
def test_cached_equals_uncached_with_left_padding(pieces, padding, context):
    model = exact(token_context=context)
    lengths = [padded + sum(pieces) for padded in padding]
    total = max(lengths)
    ids = tokens(len(padding), total)
    mask = torch.stack([(torch.arange(total) >= padded).long() for padded in padding])
    cache, logits, start = model.new_cache(), [], 0
    for piece in [*pieces, total - sum(pieces)]:
        if piece:
            part = slice(start, start + piece)
            logits.append(model(ids[:, part], attention_mask=mask[:, : start + piece], past_key_values=cache).logits)
            start += piece
    together = torch.cat(logits, dim=1)
    for row, padded in enumerate(padding):
        alone = model(ids[row : row + 1, padded:], use_cache=False).logits[0]
        torch.testing.assert_close(together[row, padded:], alone, rtol=0, atol=EXACT)


@torch.no_grad()
@pytest.mark.parametrize("length", [1, 5, 40])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_the_cache_holds_one_context_a_block_whatever_the_length(length, dtype):
    model = small(num_blocks=3, context_dim=8).eval().to(dtype)
    cache = model(tokens(2, length)).past_key_values
    assert held_bytes(cache) == 2 * model.cached_values(length) * dtype.itemsize == 2 * 24 * dtype.itemsize
    state = cache.layers[0].state
    assert state.untyped_storage().nbytes() == 2 * 24 * dtype.itemsize


@torch.no_grad()
@pytest.mark.parametrize("context", ["previous", "current"])
def test_crop_is_exact_when_recorded_and_an_error_otherwise(context):
    model = exact(token_context=context)
    ids = tokens(2, 9)
    plain = model(ids[:, :6]).past_key_values
    with pytest.raises(RuntimeError, match="activate_past_recording"):
        plain.crop(-2)
    recorded = model.new_cache()
    recorded.activate_past_recording()
    model(ids[:, :6], past_key_values=recorded)
    recorded.crop(-2)
    assert recorded.get_seq_length() == 4
    again = model(ids[:, 4:], past_key_values=recorded).logits
    torch.testing.assert_close(again, model(ids, use_cache=False).logits[:, 4:], rtol=0, atol=EXACT)


class Calls:
    """Note how many tokens each forward call of a model is given."""

    def __init__(self, model: CascadeContextLLM) -> None:
        self.lengths: list[int] = []
        model.register_forward_pre_hook(self.note, with_kwargs=True)

    def note(self, module, arguments, keywords) -> None:
        self.lengths.append(keywords["input_ids"].shape[1])


@torch.no_grad()
@pytest.mark.parametrize("context", ["previous", "current"])
@pytest.mark.parametrize("beams", [1, 3])
@pytest.mark.parametrize("given_cache", [False, True])
def test_generate_decodes_one_step_a_token_and_as_without_cache(context, beams, given_cache):
    model = exact(token_context=context)
    ids = tokens(2, 6)
    mask = torch.tensor([[0, 0, 1, 1, 1, 1], [1] * 6])
    arguments = {"attention_mask": mask, "max_new_tokens": 7, "num_beams": beams, "do_sample": False}
    plain = model.generate(ids, use_cache=False, pad_token_id=1, eos_token_id=None, **arguments)
    calls = Calls(model)
    cache: Cache | None = DynamicCache() if given_cache else None
    cached = model.generate(ids, past_key_values=cache, pad_token_id=1, eos_token_id=None, **arguments)
    assert torch.equal(cached, plain)
    assert calls.lengths == [6] + [1] * 6


def test_assisted_generation_is_refused():
    model = exact()
    with pytest.raises(ValueError, match="stateful"):
        model.generate(tokens(1, 4), assistant_model=small().double(), max_new_tokens=4)


@torch.no_grad()
@pytest.mark.parametrize(("context", "tied"), VARIANTS)
def test_saved_and_loaded_it_is_the_same_model(tmp_path, context, tied):
    model = small(token_context=context, tie_word_embeddings=tied, num_blocks=3).eval()
    model.save_pretrained(tmp_path)
    loaded, info = CascadeContextLLM.from_pretrained(tmp_path, output_loading_info=True)
    assert not any(info.values())
    ids = tokens(2, 8)
    assert torch.equal(loaded(ids).logits, model(ids).logits)
    assert torch.equal(AutoModelForCausalLM.from_pretrained(tmp_path)(ids).logits, model(ids).logits)
    for either in (model, loaded):
        assert (either.embed_in.weight is either.embed_out.weight) == tied


@torch.no_grad()
@pytest.mark.parametrize("context", ["previous", "current"])
def test_given_contexts_take_the_place_of_the_recurrences(context):
    model = exact(token_context=context)
    ids = tokens(2, 8)
    read = model.as_read(contexts_after(model, ids))
    expected = model(ids, labels=ids)
    given = model(ids, contexts=read, labels=ids)
    torch.testing.assert_close(given.logits, expected.logits, rtol=0, atol=EXACT)
    torch.testing.assert_close(given.loss, expected.loss, rtol=0, atol=EXACT)
    assert given.past_key_values is None
    with pytest.raises(ValueError, match="contexts must be"):
        model(ids, contexts=read[:, :-1])
    with pytest.raises(ValueError, match="without past_key_values"):
        model(ids, contexts=read, use_cache=True)


@pytest.mark.parametrize(("context", "tied"), VARIANTS)
@pytest.mark.parametrize("collected", [True, False])
def test_gradients_reach_what_trains_and_nothing_that_is_frozen(context, tied, collected):
    model = small(token_context=context, tie_word_embeddings=tied).train()
    ids = tokens(2, 8)
    read = model.as_read(contexts_after(model, ids)).detach() if collected else None
    model.freeze_context_blocks()
    model.embed_in.requires_grad_(False)
    model(ids, labels=ids, contexts=read).loss.backward()
    trained = {name for name, value in model.named_parameters() if value.grad is not None and value.grad.any()}
    head = set() if tied else {"embed_out.weight"}
    block = {f"token_block.{name}" for name, _ in model.token_block.named_parameters()}
    assert trained == {name for name, value in model.named_parameters() if value.requires_grad} == block | head


@pytest.mark.parametrize("context", ["previous", "current"])
def test_trained_end_to_end_every_parameter_has_a_gradient(context):
    model = small(token_context=context, tie_word_embeddings=False, freeze_embedding=False).train()
    ids = tokens(2, 8)
    model(ids, labels=ids).loss.backward()
    assert all(value.grad is not None and value.grad.any() for value in model.parameters())


@pytest.mark.parametrize(
    ("overrides", "reason"),
    [
        ({"token_context": "next"}, "choose one of previous, current"),
        ({"data_split": "half"}, "choose one of disjoint, full"),
        ({"num_blocks": 0}, "num_blocks=0 must be at least 1"),
        ({"context_dim": -4}, "context_dim=-4 must be at least 1"),
        ({"num_hidden_layers": 4}, "no setting 'num_hidden_layers'"),
    ],
)
def test_impossible_settings_are_refused(overrides, reason):
    with pytest.raises(ValueError, match=reason):
        create("cascade", "tiny", **overrides)
