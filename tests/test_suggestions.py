from hypothesis import given
from hypothesis import strategies as st

from newllm.wording import closest, did_you_mean

NAMES = st.lists(st.text("abcdefg_", min_size=4, max_size=12), min_size=1, max_size=6, unique=True)


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
