"""Entries in a narrower type: as near as their bits allow, moved and cropped as the stock layer's, never in full."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers.cache_utils import DynamicLayer

from newllm.evaluation.cache import held_bytes
from newllm.models import create, names
from newllm.models.narrow_layer import CODECS, NarrowLayer

# Largest error, as a share of a group's largest magnitude or of its range; float16 scales add a little to 1/2 step.
ERRORS = {"float32": 0.0, "bfloat16": 2**-8, "float8": 2**-4 + 2**-8, "int8": 1.1 / 255, "int4": 1.1 / 15}
# Bytes of one entry in groups of 64: a scale of 2 bytes for floats, and a zero point of 2 more for integers.
BYTES = {"float32": 4, "bfloat16": 2, "float8": 1 + 2 / 64, "int8": 1 + 4 / 64, "int4": 0.5 + 4 / 64}


@pytest.mark.parametrize("precision", CODECS)
@settings(max_examples=25, deadline=None)
@given(
    width=st.sampled_from([1, 3, 16, 40, 64, 128, 144]),
    size=st.sampled_from([0.05, 1.0, 300.0]),
    offset=st.sampled_from([0.0, 5.0, -2.0]),
    seed=st.integers(0, 2**16),
)
def test_entries_come_back_within_half_a_step(precision, width, size, offset, seed):
    entries = size * (torch.randn(2, 2, 3, width, generator=torch.Generator().manual_seed(seed)) + offset)
    codec = CODECS[precision]
    decoded = codec.decode(codec.encode(entries), width).float()
    assert decoded.shape == entries.shape
    group = max(part for part in range(1, 65) if width % part == 0)
    grouped = entries.unflatten(3, (-1, group))
    extent = grouped.amax(-1, keepdim=True) - grouped.amin(-1, keepdim=True)
    largest = torch.maximum(extent, grouped.abs().amax(-1, keepdim=True))
    assert ((decoded.unflatten(3, (-1, group)) - grouped).abs() <= ERRORS[precision] * largest + 1e-6).all()


@pytest.mark.parametrize("precision", ["int8", "int4"])
def test_entries_beyond_float16_come_back_as_its_ends(precision):
    entries = torch.tensor([-1e5, 0.0, 1.0, 2e5]).reshape(1, 1, 1, 4)
    codec = CODECS[precision]
    decoded = codec.decode(codec.encode(entries), 4)
    step = 2 * 65504 / (255 if precision == "int8" else 15)
    torch.testing.assert_close(decoded, entries.clamp(-65504, 65504), rtol=0, atol=step)


@pytest.mark.parametrize("precision", CODECS)
def test_entries_that_are_all_alike_and_zeros_come_back(precision):
    for entries in (torch.zeros(1, 1, 2, 8), torch.full((1, 1, 2, 8), 0.5)):
        codec = CODECS[precision]
        torch.testing.assert_close(codec.decode(codec.encode(entries), 8).float(), entries, rtol=2e-3, atol=1e-6)


@pytest.mark.parametrize("precision", CODECS)
@pytest.mark.parametrize("value_width", [0, 64])
def test_bytes_are_those_of_the_bits_with_their_scales(precision, value_width):
    layer = NarrowLayer(precision)
    for length in (5, 1, 2):
        layer.update(torch.randn(2, 3, length, 128), torch.randn(2, 3, length, value_width))
    cache = create("pythia", "tiny").new_cache()
    cache.layers[:] = [layer]
    assert held_bytes(cache) == 2 * 3 * 8 * (128 + value_width) * BYTES[precision]


@pytest.mark.parametrize("precision", ["float32", "int4"])
def test_rows_and_crops_are_those_of_the_stock_layer(precision):
    stock, narrow = DynamicLayer(), NarrowLayer(precision)
    entries = [torch.randn(3, 2, 9, 8), torch.randn(3, 2, 9, 4)]
    returned = narrow.update(*entries)
    stock.update(*returned)
    for name, argument in (
        ("crop", -2),
        ("crop", 0),
        ("reorder_cache", torch.tensor([2, 0, 0])),
        ("batch_repeat_interleave", 2),
        ("batch_select_indices", torch.tensor([5, 1])),
    ):
        for layer in (stock, narrow):
            getattr(layer, name)(argument)
        assert torch.equal(stock.keys, narrow.keys)
        assert torch.equal(stock.values, narrow.values)
        assert stock.get_seq_length() == narrow.get_seq_length() == 7
    narrow.reset()
    assert narrow.get_seq_length() == 0
    assert narrow.keys is None
    with pytest.raises(AttributeError, match="by update alone"):
        narrow.keys = entries[0]


@torch.no_grad()
@pytest.mark.parametrize("name", names())
def test_every_model_reads_a_narrow_cache_or_refuses_it_in_one_sentence(name):
    torch.manual_seed(0)
    model = create(name, "tiny").eval()
    ids = torch.randint(512, (2, 12))
    if name in ("cascade", "context-kv", "window"):
        with pytest.raises(ValueError, match="cache in int4 holds entries by token alone, but this model keeps a"):
            model.new_cache("int4")
        return
    with pytest.raises(ValueError, match="precision='int5' is unknown: choose one of float32"):
        model.new_cache("int5")
    logits = {}
    for precision in CODECS:
        cache = model.new_cache(precision)
        parts = [model(part, past_key_values=cache).logits for part in ids.split(1, 1)]
        logits[precision] = torch.cat(parts, 1)
        assert not any(isinstance(layer, DynamicLayer) and type(layer) is not NarrowLayer for layer in cache.layers)
    exact = model(ids, use_cache=False).logits
    torch.testing.assert_close(logits["float32"], exact, atol=1e-4, rtol=1e-4)
    errors = {precision: (found - exact).abs().mean().item() for precision, found in logits.items()}
    assert 0 < errors["bfloat16"] < errors["float8"] < errors["int4"]
    assert errors["int8"] < errors["int4"]
    written = model.generate(ids, past_key_values=model.new_cache("int4"), max_new_tokens=3, pad_token_id=0)
    assert written.shape == (2, 15)
