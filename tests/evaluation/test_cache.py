"""Bytes are those of real tensors, and faults in a cached path are seen."""

import pytest
import torch
from torch import nn
from transformers.cache_utils import DynamicCache, DynamicLayer

from newllm.evaluation.agreement import cached_equals_uncached
from newllm.evaluation.cache import held_bytes, measure
from newllm.models import configure, create
from newllm.models.methods.pythia import PythiaModel
from tests.evaluation import toys


@pytest.mark.parametrize(("name", "kibibytes"), [("pythia", 3072.0), ("dproj", 1920.0 + 320 * 4 / 1024)])
def test_published_bytes_come_out_of_real_caches(name, kibibytes):
    # The vocabulary has no part in the cache; a small one keeps the test quick.
    report = measure(create(name, "70m", vocab_size=64), 128, torch.float32)
    assert report.measured_bytes / 1024 == kibibytes
    assert report.agrees
    assert report.bytes_per_token * 128 + report.state_bytes == report.measured_bytes


@pytest.mark.parametrize("build", [toys.gpt_neox, toys.gpt2])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_foreign_models_have_bytes_and_no_formula(build, dtype):
    report = measure(build(), 20, dtype)
    assert report.measured_bytes == 2 * 2 * 20 * 32 * dtype.itemsize
    assert report.formula_bytes is None
    assert report.agrees
    assert report.dtype == str(dtype).split(".")[1]


def test_measuring_leaves_the_model_alone():
    model = toys.gpt_neox().train()
    measure(model, 5, torch.bfloat16)
    assert model.dtype == torch.float32
    assert model.training


def test_long_sequences_are_prefilled_in_pieces():
    assert measure(toys.gpt_neox(), 700).measured_bytes == 2 * 2 * 700 * 32 * 4


def test_no_tokens_is_an_error():
    with pytest.raises(ValueError, match="tokens=0"):
        measure(toys.gpt2(), 0)


@pytest.mark.parametrize("dtype", [torch.int8, torch.bool, torch.complex64, torch.float8_e4m3fn, "float32", None])
def test_a_type_that_no_model_computes_in_is_an_error(dtype):
    with pytest.raises(ValueError, match=r"^dtype=.* must be a type that models compute in: torch.float64, ") as caught:
        measure(create("pythia", "tiny"), 5, dtype)
    assert "\n" not in str(caught.value)


def test_a_wrong_formula_does_not_agree():
    class Claims(PythiaModel):
        def cached_values(self, tokens: int) -> int:
            return 100 * tokens

    report = measure(Claims(configure("pythia", "tiny")), 20)
    assert report.formula_bytes == 100 * 20 * 4
    assert not report.agrees


def cache_of(keys: torch.Tensor, values: torch.Tensor) -> DynamicCache:
    cache = DynamicCache()
    layer = DynamicLayer()
    layer.keys, layer.values, layer.is_initialized = keys, values, True
    cache.layers.append(layer)
    return cache


def test_shared_storage_counts_once():
    both = torch.zeros(1, 1, 10, 8)
    assert held_bytes(cache_of(both[..., :4], both[..., 4:])) == both.numel() * 4


def test_a_view_counts_what_it_keeps_alive():
    long = torch.zeros(1, 1, 1000, 4)
    assert held_bytes(cache_of(long[:, :, -1:], torch.zeros(1, 1, 1, 4))) == 1000 * 4 * 4 + 4 * 4


def test_tensors_in_own_attributes_count_and_counters_do_not():
    cache = cache_of(torch.zeros(2, 1, 3, 4), torch.zeros(0))
    parts = {"contexts": [torch.zeros(2, 7)], "quantised": torch.zeros(2, 5, dtype=torch.int8)}
    vars(cache.layers[0]).update(parts=parts, tokens_seen=torch.zeros(2, dtype=torch.long), owner=cache)
    assert held_bytes(cache) == 24 * 4 + 14 * 4 + 10


class NoPositionBiasWhenCached(toys.Toy):
    """The bias is built over the new tokens only, and broadcasts to zero in decoding."""

    def bias(self, query, key):
        return super().bias(query - query[0], query[:, 0] - query[0]) if len(query) == 1 else super().bias(query, key)


class RowsStayInPlace(toys.Toy):
    """A state beside the cache does not follow its rows."""

    def hidden(self, input_ids, attention_mask, cache):
        hidden = super().hidden(input_ids, attention_mask, cache)
        if cache is None:
            return hidden + self.embed(input_ids[:, :1])
        if not hasattr(cache, "first"):
            cache.first = self.embed(input_ids[:, :1])
        rows = torch.arange(len(input_ids)) % len(cache.first)
        return hidden + cache.first[rows]


class CropsSilently(toys.Toy):
    _is_stateful = True


@pytest.mark.parametrize("build", [toys.gpt_neox, toys.gpt2, toys.Toy])
def test_sound_models_agree(build):
    agreement = cached_equals_uncached(build())
    assert agreement.agrees, agreement.errors
    assert {"prefill", "chunked prefill", "token by token", "crop", "beam reorder"} <= set(agreement.errors)


@pytest.mark.parametrize(
    ("broken", "cases"),
    [
        (NoPositionBiasWhenCached, {"token by token", "left padding, decoded"}),
        (toys.LeakInCachedPieces, {"chunked prefill"}),
        (toys.PaddingSeen, {"left padding, uncached", "left padding, decoded"}),
        (RowsStayInPlace, {"beam reorder", "repeat and select"}),
        (CropsSilently, {"crop refused"}),
    ],
)
def test_broken_caches_are_caught(broken, cases):
    agreement = cached_equals_uncached(broken())
    assert not agreement.agrees
    wrong = {case for case, error in agreement.errors.items() if error > 1e-9}
    assert cases <= wrong, agreement.errors
    assert "prefill" not in wrong


def test_a_model_without_a_cache_is_refused():
    class NoCache(toys.Toy):
        def forward(self, *args, **kwargs):
            output = super().forward(*args, **kwargs)
            output.past_key_values = None
            return output

    with pytest.raises(ValueError, match="no cache"):
        cached_equals_uncached(NoCache())


def test_dropout_does_not_disturb_the_comparison():
    model = toys.gpt2().train()
    assert any(isinstance(part, nn.Dropout) and part.p > 0 for part in model.modules())
    assert cached_equals_uncached(model).agrees


@pytest.mark.parametrize("chunk_size", [1, 5, 8, 11])
def test_growth_is_measured_over_whole_periods(chunk_size):
    report = measure(create("context-kv", "tiny", chunk_size=chunk_size, context_dims=[20]), 64)
    assert report.bytes_per_token == pytest.approx(4 * 20 / chunk_size)
    assert report.state_bytes == pytest.approx(4 * 20)


@pytest.mark.parametrize("tokens", [2.5, True, 0, "3"])
def test_a_length_is_a_whole_number(tokens):
    with pytest.raises(ValueError, match=f"^tokens={tokens!r} must be a whole number, 1 or more$"):
        measure(create("pythia", "tiny"), tokens)
