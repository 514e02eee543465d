import pytest
from hypothesis import given
from hypothesis import strategies as st

from newllm.wording import closest, describe_seconds, did_you_mean

NAMES = st.lists(st.text("abcdefg_", min_size=4, max_size=12), min_size=1, max_size=6, unique=True)


@pytest.mark.parametrize(
    ("seconds", "text"), [(0.4, "0 s"), (42, "42 s"), (200, "3 min 20 s"), (7500, "2 h 05 min"), (59.7, "1 min 00 s")]
)
def test_durations_are_said_as_people_say_them(seconds, text):
    assert describe_seconds(seconds) == text


@given(known=NAMES, extra=st.sampled_from("xyz"))
def test_a_slip_of_one_letter_finds_a_known_name(known, extra):
    assert closest(known[0] + extra, known) in known
    assert did_you_mean(known[0], known) == f" (did you mean {known[0]!r}?)"


@given(known=NAMES)
def test_nothing_is_suggested_where_nothing_is_alike(known):
    assert closest("QQQQQQ", known) is None
    assert did_you_mean("QQQQQQ", known) == ""


def test_of_equally_like_names_the_one_of_the_same_letters_is_meant():
    assert closest("mal", ["mqa", "mla"]) == "mla"
    assert closest("mal", ["mla", "mqa"]) == "mla"
