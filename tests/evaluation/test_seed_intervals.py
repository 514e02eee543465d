"""Intervals over seeds that all arms inform: as wide as they say, and of the right kind of change."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from newllm.evaluation.seed_intervals import seed_intervals
from newllm.evaluation.statistics import mean_interval

numbers = st.lists(st.floats(1, 100), min_size=2, max_size=5)


@given(numbers)
def test_of_one_arm_alone_it_is_students_interval(values):
    found, expected = seed_intervals({"a": values})["a"], mean_interval(values)
    assert (found.mean, found.low, found.high) == pytest.approx((expected.mean, expected.low, expected.high))


def test_arms_of_one_seed_have_the_width_that_others_show_and_more_seeds_a_narrower_one():
    found = seed_intervals({"a": [1.0, 3.0], "b": [5.0, 9.0], "c": [7.0]})
    # Variances of 2 and of 8 with a degree of freedom each.
    half = stats.t.ppf(0.975, 2) * math.sqrt(5)
    assert (found["c"].low, found["c"].high) == pytest.approx((7 - half, 7 + half))
    assert found["a"].high - found["a"].mean == pytest.approx(half / math.sqrt(2))
    assert found["b"].mean == 7.0


def test_where_no_arm_has_two_seeds_nothing_is_said():
    found = seed_intervals({"a": [1.0], "b": [2.0]})
    assert [interval.mean for interval in found.values()] == [1.0, 2.0]
    assert all(np.isnan([interval.low, interval.high]).all() for interval in found.values())
    assert seed_intervals({}) == {}


def test_a_ratio_changes_by_a_share_of_it():
    found = seed_intervals({"small": [10.0, 11.0], "large": [1000.0]}, is_ratio=True)
    small, large = found["small"], found["large"]
    assert small.mean == 10.5
    assert math.log(small.high / small.mean) == pytest.approx(math.log(small.mean / small.low))
    assert math.log(large.high / large.mean) == pytest.approx(math.sqrt(2) * math.log(small.high / small.mean))
    assert large.low > 0


@pytest.mark.parametrize("seeds", [1, 2, 3])
def test_they_hold_the_truth_as_often_as_they_say(seeds):
    generator = np.random.default_rng(0)
    held = []
    for _ in range(800):
        arms = {arm: list(arm + generator.normal(0, 0.3, 2)) for arm in range(6)}
        interval = seed_intervals(arms | {9: list(9 + generator.normal(0, 0.3, seeds))})[9]
        held.append(interval.low <= 9 <= interval.high)
    assert 0.93 < np.mean(held) < 0.97
