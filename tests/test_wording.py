"""How durations, intervals and what was not measured are said, and which names are suggested."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from newllm.evaluation.statistics import mean_interval
from newllm.wording import closest, describe_seconds, did_you_mean, plus_minus, with_interval

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


@given(st.lists(st.floats(1, 1000), min_size=2, max_size=6))
def test_what_stands_behind_plus_minus_is_half_of_the_interval_over_seeds(values):
    found = mean_interval(values)
    mean, half = map(float, plus_minus(found.columns("perplexity"), "perplexity", "{:.6f}").split(" ± "))
    assert mean == pytest.approx(found.mean, abs=1e-6)
    assert half == pytest.approx((found.high - found.low) / 2, abs=1e-6)


@pytest.mark.parametrize("row", [{"x": 2.0, "x_low": math.nan, "x_high": math.nan}, {"x": 2.0}])
def test_one_seed_has_no_plus_minus(row):
    assert plus_minus(row, "x", "{:.2f}") == "2.00"


def test_what_was_not_measured_is_empty():
    assert plus_minus({"x": math.nan}, "x", "{:.2f}") == plus_minus({}, "x", "{:.2f}") == ""
    assert with_interval({}, "difference") == with_interval({"difference": math.nan}, "difference") == ""
    row = {"difference": -0.5, "difference_low": -0.75, "difference_high": -0.25}
    assert with_interval(row | {"difference_low": math.nan}, "difference", 2) == "-0.50"
    assert with_interval(row, "difference", 2) == "-0.50 [-0.75, -0.25]"
