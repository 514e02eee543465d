"""Durations are said as people say them, ± is half of a 95 % interval, and nothing is written that was not measured."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from newllm.evaluation.statistics import mean_interval
from newllm.wording import describe_seconds, plus_minus, with_interval


@pytest.mark.parametrize(
    ("seconds", "text"), [(0.4, "0 s"), (42, "42 s"), (200, "3 min 20 s"), (7500, "2 h 05 min"), (59.7, "1 min 00 s")]
)
def test_durations_are_said_as_people_say_them(seconds, text):
    assert describe_seconds(seconds) == text


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
