import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from newllm.recurrence import stream
from newllm.recurrence.stream import check_stream

INTEGERS = (
    *(torch.int8, torch.int16, torch.int32, torch.int64),
    *(torch.uint8, torch.uint16, torch.uint32, torch.uint64),
)


@given(st.data(), st.sampled_from(INTEGERS), st.integers(1, 2**40))
def test_ids_of_every_whole_dtype_are_judged_by_their_values(data, dtype, vocabulary):
    limits = torch.iinfo(dtype)
    near = st.integers(max(limits.min, -3), min(limits.max, vocabulary + 3))
    ids = data.draw(st.lists(near | st.sampled_from([limits.min, limits.max]), min_size=1, max_size=5))
    if all(0 <= token < vocabulary for token in ids):
        check_stream(torch.tensor(ids, dtype=dtype), vocabulary)
    else:
        with pytest.raises(ValueError, match=f"from 0 to {vocabulary - 1}"):
            check_stream(torch.tensor(ids, dtype=dtype), vocabulary)


@pytest.mark.parametrize("bad", range(7))
def test_no_part_of_a_long_stream_is_left_out(bad, monkeypatch):
    monkeypatch.setattr(stream, "PART", 3)
    ids = torch.zeros(7, dtype=torch.int16)
    ids[bad] = 512
    with pytest.raises(ValueError, match="from 0 to 511"):
        check_stream(ids, 512)


@pytest.mark.parametrize(
    ("ids", "said"),
    [
        ([1, 2], "a tensor of shape .*, not a list"),
        (None, "not a NoneType"),
        (torch.tensor([True, False]), "whole numbers, not torch.bool"),
        (torch.tensor([1.0]), "whole numbers, not torch.float32"),
        (torch.tensor(3), "one stream"),
    ],
)
def test_what_is_no_stream_is_refused(ids, said):
    with pytest.raises(ValueError, match=said):
        check_stream(ids, 512)
