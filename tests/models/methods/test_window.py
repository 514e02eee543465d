"""A window with sinks: what is seen, what is kept, and what cannot be taken back."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from newllm.evaluation.cache import held_bytes
from newllm.evaluation.kept import kept_by_token
from newllm.evaluation.probing import logits_in_pieces
from newllm.models import configure, create, sizes
from newllm.models.methods.window import WindowLayer

IDS = torch.randint(512, (3, 40), generator=torch.Generator().manual_seed(0))


def create_tiny(**overrides):
    torch.manual_seed(1)
    return create("window", "tiny", initializer_range=0.2, **overrides).double().eval()


def pythia_with_mask(model, ids, real):
    """Logits of the Pythia with the same weights whose scores are masked as the definition says, token by token."""
    window, sinks = model.config.window, model.config.sinks
    pythia = create("pythia", "tiny", position=model.config.position).double().eval()
    pythia.load_state_dict(model.state_dict())
    length = ids.shape[1]
    seen = torch.eye(length, dtype=torch.bool).repeat(len(ids), 1, 1)
    for row in range(len(ids)):
        places = real[row].nonzero()[:, 0].tolist()
        for rank, query in enumerate(places):
            for other in range(rank + 1):
                seen[row, query, places[other]] = rank - other <= window or other < sinks
    mask = torch.zeros(seen.shape, dtype=torch.float64).masked_fill(~seen, -torch.inf)[:, None]
    positions = (real.cumsum(1) - 1).clamp(min=0)
    for layer in pythia.gpt_neox.layers:
        bias = layer.attention.position.score_bias(positions, positions, torch.float64)
        layer.attention.forward = of_formula(layer.attention, mask if bias is None else mask + bias)
    return pythia(ids, attention_mask=real.long()).logits


def of_formula(attention, mask):
    def forward(hidden, step):
        queries, keys, values = attention.project(hidden, step)
        weights = (queries @ keys.mT * attention.head_dim**-0.5 + mask).softmax(-1)
        return attention.dense((weights @ values).transpose(1, 2).flatten(2))

    return forward


@settings(max_examples=30, deadline=None)
@given(
    window=st.integers(1, 12),
    sinks=st.integers(0, 5),
    position=st.sampled_from(["rope", "alibi", "none"]),
    pieces=st.lists(st.integers(1, 14), min_size=1, max_size=6),
    padding=st.lists(st.integers(0, 20), min_size=3, max_size=3),
    hole=st.integers(0, 40),
)
@torch.no_grad()
def test_it_sees_what_the_definition_says_in_one_pass_and_in_pieces(window, sinks, position, pieces, padding, hole):
    model = create_tiny(window=window, sinks=sinks, position=position)
    length = sum(pieces)
    ids = IDS.repeat(1, 3)[:, :length]
    real = torch.arange(length) >= torch.tensor(padding)[:, None]
    real[1, hole : hole + 2] = False
    expected = pythia_with_mask(model, ids, real)
    full = model(ids, attention_mask=real.long()).logits
    cached, cache = logits_in_pieces(model, ids, pieces, real.long())
    for found in (full, cached):
        assert torch.where(real[..., None], found - expected, 0.0).abs().max() < 1e-9
    assert all(layer.keys.shape[2] <= min(length, window + sinks) for layer in cache.layers)


def test_what_lies_outside_is_dropped_from_memory():
    model = create_tiny()
    cache = model.new_cache()
    for start in range(0, 40, 10):
        model(IDS[:, start : start + 10], past_key_values=cache)
        assert held_bytes(cache) == 3 * 8 * model.cached_values(start + 10) == 3 * 8 * 8 * 2 * 64 * 2
    assert cache.get_seq_length() == 40
    entries = kept_by_token(model, 40)
    assert set(entries["token"]) == {0, 1, 2, 3, 36, 37, 38, 39}


def test_a_forgotten_token_changes_nothing_and_a_sink_does():
    model = create_tiny(num_hidden_layers=1)
    changed = IDS.clone()
    for column, is_felt in ((0, True), (3, True), (4, False), (30, False), (35, True)):
        changed[:, column] = (IDS[:, column] + 1) % 512
        moved = (model(changed).logits - model(IDS).logits)[:, 39].abs().max()
        assert (moved > 1e-6) == is_felt, column
        changed[:, column] = IDS[:, column]


def test_crop_is_exact_while_nothing_was_dropped_and_refused_afterwards():
    model = create_tiny()
    cache = model.new_cache()
    model(IDS[:, :8], past_key_values=cache)
    assert cache.is_croppable
    cache.crop(-5)
    assert (model(IDS[:, 3:12], past_key_values=cache).logits - model(IDS).logits[:, 3:12]).abs().max() < 1e-9
    assert not cache.is_croppable
    with pytest.raises(RuntimeError, match="cannot be cropped by 1 tokens, what they pushed out of it is gone"):
        cache.crop(-1)
    with pytest.raises(ValueError, match="negative"):
        cache.crop(1)
    assert cache.get_seq_length() == 12


@pytest.mark.parametrize("before", [0, 6, 20])
def test_a_recording_may_begin_anywhere_and_rows_move_with_it(before):
    model = create_tiny()
    cache = model.new_cache()
    if before:
        model(IDS[:, :before], past_key_values=cache)
    cache.activate_past_recording()
    for part in IDS[:, before:].split(7, 1):
        model(part, past_key_values=cache)
    order = torch.tensor([2, 0, 2])
    cache.reorder_cache(order)
    cache.crop(before - 38)
    rows = IDS[order]
    continued = model(rows[:, before + 2 :], past_key_values=cache).logits
    assert (continued - model(rows).logits[:, before + 2 :]).abs().max() < 1e-9
    cache.crop(-30 + before)
    if before == 20:
        with pytest.raises(RuntimeError, match="activate_past_recording"):
            cache.crop(-11)


@pytest.mark.parametrize("size", sizes())
def test_memory_stops_growing_after_a_chunk(size):
    with torch.device("meta"):
        model = create("window", size)
    tokens = configure("context-kv", size).chunk_size
    assert model.cached_values(tokens - 1) < model.cached_values(tokens) == model.cached_values(10**6)


@pytest.mark.parametrize(("overrides", "reason"), [({"window": 0}, "window=0 must be"), ({"sinks": -1}, "sinks=-1")])
def test_impossible_requests_are_refused(overrides, reason):
    with pytest.raises(ValueError, match=reason):
        configure("window", "tiny", **overrides)


def test_a_window_takes_no_keys_without_a_mask():
    with pytest.raises(NotImplementedError, match="extend"):
        WindowLayer().update(IDS, IDS)


@pytest.mark.parametrize("rows", [[0], [1], [0, 0], [2, 0]])
@torch.no_grad()
def test_rows_that_are_chosen_go_on_as_alone(rows):
    """A shorter row keeps the slots that it never filled where the longer ones are taken out of the batch."""
    model = create_tiny(window=4, sinks=2)
    ids = IDS[:, :14]
    mask = torch.ones_like(ids)
    mask[0, :10], mask[2, :7] = 0, 0
    cache = model.new_cache()
    model(ids[:, :12], attention_mask=mask[:, :12], past_key_values=cache)
    cache.batch_select_indices(torch.tensor(rows))
    found = model(ids[rows, 12:], attention_mask=mask[rows], past_key_values=cache).logits
    assert (found - model(ids, attention_mask=mask).logits[rows, 12:]).abs().max() < 1e-9
