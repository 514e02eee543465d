import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from newllm.evaluation.cache import held_bytes
from newllm.evaluation.calculator import calculate
from newllm.models import create, names


@settings(max_examples=6, deadline=None)
@given(tokens=st.integers(1, 40), sequences=st.integers(1, 3), dtype=st.sampled_from([torch.float32, torch.bfloat16]))
def test_it_says_what_real_caches_hold(tokens, sequences, dtype):
    table = calculate("tiny", tokens, sequences=sequences, dtype=dtype).set_index("model")
    ids = torch.randint(1, 512, (sequences, tokens), generator=torch.Generator().manual_seed(0))
    for name in names():
        with torch.no_grad():
            cache = create(name, "tiny").eval().to(dtype)(ids, use_cache=True).past_key_values
        assert table.loc[name, "bytes"] == held_bytes(cache), name


def test_the_published_shape():
    table = calculate("70m", 128).set_index("model")
    assert table.loc["pythia", "bytes"] == 3072 * 1024
    assert table.loc["dproj", "bytes"] == 1920 * 1024 + 320 * 4
    assert table.loc["mla", "share"] == 0.125
    assert list(table["bytes"]) == sorted(table["bytes"], reverse=True)
    assert set(table.index) == set(names())


@pytest.mark.parametrize("given_values", [{"tokens": 0}, {"tokens": 4, "sequences": 0}])
def test_impossible_numbers_are_refused(given_values):
    with pytest.raises(ValueError, match="must be 1 or more"):
        calculate("tiny", **given_values)


def test_an_unknown_size_is_refused():
    with pytest.raises(ValueError, match="size='71m' is unknown"):
        calculate("71m", 4)
