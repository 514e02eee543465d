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


@pytest.mark.parametrize("number", [0, 2.5, float("nan"), "8", True])
def test_impossible_numbers_are_refused(number):
    for values in ({"tokens": number}, {"tokens": 4, "sequences": number}):
        with pytest.raises(ValueError, match="must be a whole number, 1 or more"):
            calculate("tiny", **values)


def test_a_table_of_no_models_is_refused():
    with pytest.raises(ValueError, match="models is empty"):
        calculate("tiny", 4, models=[])


def test_an_unknown_size_is_refused():
    with pytest.raises(ValueError, match="size='71m' is unknown"):
        calculate("71m", 4)
