"""A layer that grows by blocks is the stock layer in everything but the copying."""

import copy

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import DynamicCache
from transformers.cache_utils import DynamicLayer

from newllm.evaluation.cache import held_bytes, measure, reserved_bytes
from newllm.models import create, names
from newllm.models.growing_layer import BLOCK_TOKENS, GrowingLayer

PER_TOKEN = [name for name in names() if DynamicLayer in create(name, "tiny").cache_layout()]


def entries(rows: int, tokens: int, seed: int, value_width: int = 3) -> tuple[torch.Tensor, torch.Tensor]:
    drawn = torch.randn(rows, 2, tokens, 5 + value_width, generator=torch.Generator().manual_seed(seed))
    return drawn[..., :5], drawn[..., 5:]


def same(one: DynamicLayer, other: DynamicLayer) -> bool:
    return one.get_seq_length() == other.get_seq_length() and all(
        torch.equal(getattr(one, name), getattr(other, name)) for name in ("keys", "values")
    )


OPERATIONS = st.one_of(
    st.tuples(st.just("update"), st.sampled_from([1, 2, 30, BLOCK_TOKENS - 1, BLOCK_TOKENS, 300])),
    st.tuples(st.just("crop"), st.integers(0, 5)),
    st.tuples(st.sampled_from(["reorder_cache", "batch_select_indices"]), st.lists(st.integers(0, 9), min_size=1)),
    st.tuples(st.just("batch_repeat_interleave"), st.integers(1, 3)),
    st.tuples(st.sampled_from(["reset", "deepcopy", "copy", "graph", "inference"]), st.just(0)),
)


@settings(max_examples=80, deadline=None)
@given(operations=st.lists(OPERATIONS, max_size=14), width=st.sampled_from([0, 3]))
def test_any_sequence_of_operations_leaves_what_the_stock_layer_holds(operations, width):
    stock, growing = DynamicLayer(), GrowingLayer()
    rows, handed_out = 2, []
    with torch.no_grad():
        for seed, (name, size) in enumerate([("update", 3), *operations]):
            if name in ("update", "graph", "inference"):
                mode = {"update": torch.no_grad, "graph": torch.enable_grad, "inference": torch.inference_mode}[name]
                with mode():
                    new = entries(rows, max(size, 1), seed, width)
                    results = [layer.update(*new) for layer in (stock, growing)]
                assert all(torch.equal(one, other) for one, other in zip(*results, strict=True))
            elif name == "copy":
                kept, growing = growing, copy.copy(growing)
                if kept.get_seq_length():
                    kept.update(*entries(rows, 2, 99, width))
            elif name == "deepcopy":
                growing = copy.deepcopy(growing)
            elif name == "reset":
                stock.reset(), growing.reset()
            elif stock.get_seq_length() > 5:
                argument = -size if name == "crop" else size
                if isinstance(size, list):
                    argument = torch.tensor(size) % rows
                    rows = len(size)
                rows *= size if name == "batch_repeat_interleave" else 1
                for layer in (stock, growing):
                    getattr(layer, name)(argument)
            if stock.get_seq_length():
                assert same(stock, growing)
                handed_out.append((growing.keys, growing.keys.clone()))
    # What was handed out once never changes, as no tensor of the stock layer does.
    assert all(torch.equal(tensor, as_it_was) for tensor, as_it_was in handed_out)


@torch.no_grad()
def test_a_step_writes_in_place_until_a_block_is_full():
    layer = GrowingLayer()
    layer.update(*entries(1, 10, 0))
    places = []
    for step in range(BLOCK_TOKENS):
        layer.update(*entries(1, 1, step))
        places.append(layer.keys.data_ptr())
    assert len(set(places[: BLOCK_TOKENS - 10])) == 1, "a block took all of its tokens"
    assert len(set(places)) == 2
    for _ in range(3):
        layer.reorder_cache(torch.tensor([0]))
        before = layer.keys.data_ptr()
        layer.update(*entries(1, 1, 0))
        assert layer.keys.data_ptr() == before, "moved rows have room for the next token"


@torch.no_grad()
def test_entries_that_do_not_fit_are_refused_as_by_the_stock_layer():
    layer = GrowingLayer()
    layer.update(*entries(3, 4, 0))
    with pytest.raises(RuntimeError, match="Sizes of tensors must match"):
        layer.update(*entries(1, 1, 0))
    assert layer.get_seq_length() == 4


@torch.no_grad()
def test_entries_of_a_wider_dtype_widen_all():
    stock, growing = DynamicLayer(), GrowingLayer()
    for layer in (stock, growing):
        layer.update(*(part.bfloat16() for part in entries(1, 4, 0)))
        layer.update(*entries(1, 2, 1))
    assert growing.keys.dtype == torch.float32
    assert same(stock, growing)


def test_gradients_flow_through_the_cache_as_through_the_stock_layer():
    torch.manual_seed(0)
    model = create("mla", "tiny").double()
    ids = torch.randint(512, (1, 12))
    gradients = []
    for cache in (DynamicCache(), model.new_cache()):
        model.zero_grad()
        model(ids[:, :8], past_key_values=cache)
        model(ids[:, 8:], past_key_values=cache).logits.square().sum().backward()
        gradients.append([parameter.grad.clone() for parameter in model.parameters() if parameter.grad is not None])
    assert all(torch.equal(one, other) for one, other in zip(*gradients, strict=True))


@torch.no_grad()
@pytest.mark.parametrize("name", PER_TOKEN)
def test_kept_bytes_are_the_claim_and_reserved_bytes_at_most_a_block_more(name):
    torch.manual_seed(0)
    model = create(name, "tiny").eval()
    stock, own = DynamicCache(), model.new_cache()
    ids = torch.randint(512, (1, BLOCK_TOKENS + 7))
    for cache in (stock, own):
        model(ids, past_key_values=cache)
    assert held_bytes(own) == held_bytes(stock) == reserved_bytes(stock)
    a_token = (model.cached_values(2 * model.period) - model.cached_values(model.period)) * 4 // model.period
    assert 0 < reserved_bytes(own) - held_bytes(own) <= BLOCK_TOKENS * a_token
    report = measure(model, 20)
    assert report.agrees
    assert report.reserved_bytes > report.measured_bytes


@pytest.mark.parametrize("name", PER_TOKEN)
@pytest.mark.parametrize("asked", [{}, {"num_beams": 3}, {"num_beams": 2, "num_return_sequences": 2}])
def test_generation_says_the_same_through_either_cache(name, asked):
    torch.manual_seed(0)
    model = create(name, "tiny").double().eval()
    ids = torch.randint(512, (2, 9))
    mask = torch.ones_like(ids)
    mask[1, :3] = 0
    asked = asked | {"max_new_tokens": 12, "do_sample": False, "pad_token_id": 0, "attention_mask": mask}
    asked |= {"return_dict_in_generate": True, "eos_token_id": None}
    own = model.generate(ids, **asked)
    named = model.generate(ids, cache_implementation="dynamic", **asked)
    given = model.generate(ids, past_key_values=DynamicCache(), **asked)
    assert torch.equal(own.sequences, named.sequences)
    assert torch.equal(own.sequences, given.sequences)
    kinds = [{type(layer) for layer in made.past_key_values.layers} for made in (own, named, given)]
    assert GrowingLayer in kinds[0]
    assert DynamicLayer in kinds[1] & kinds[2]
    assert GrowingLayer not in kinds[1] | kinds[2], "a stock cache that was asked for stays one"
