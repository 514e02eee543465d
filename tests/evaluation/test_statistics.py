"""Intervals hold the true mean as often as they say, and pairing narrows them."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from newllm.evaluation.statistics import (
    bootstrap_interval,
    mean_interval,
    paired_difference,
    proportion_interval,
)


def test_three_seeds_by_hand():
    interval = mean_interval([1.0, 2.0, 3.0])
    # t(0.975, 2) = 4.302653, standard error 1 / sqrt(3).
    assert interval.mean == 2
    assert interval.high - interval.mean == pytest.approx(4.302653 / math.sqrt(3), rel=1e-6)
    assert interval.count == 3


@pytest.mark.parametrize("statistic", [mean_interval, bootstrap_interval])
def test_coverage(statistic):
    random = np.random.default_rng(0)
    held = 0
    for _ in range(300):
        interval = statistic(random.normal(5, 2, size=30), confidence=0.9)
        held += interval.low <= 5 <= interval.high
    assert 0.83 < held / 300 < 0.96


def test_one_seed_has_no_interval():
    interval = mean_interval([3.5])
    assert interval.mean == 3.5
    assert math.isnan(interval.low)
    assert math.isnan(interval.high)
    assert str(interval) == "3.5"


@given(st.lists(st.floats(-100, 100), min_size=2, max_size=30), st.floats(-5, 5))
def test_a_constant_difference_is_certain(values, shift):
    difference = paired_difference(np.array(values) + shift, values)
    assert difference.mean == pytest.approx(shift, abs=1e-9)
    assert difference.high - difference.low < 1e-9


def test_pairing_sees_what_separate_means_hide():
    random = np.random.default_rng(1)
    hardness = random.normal(5, 2, size=200)
    worse, better = hardness + 0.05 + random.normal(0, 0.1, 200), hardness + random.normal(0, 0.1, 200)
    assert paired_difference(worse, better).low > 0
    assert mean_interval(worse).low < mean_interval(better).high


@pytest.mark.parametrize("values", [[], [1.0, math.nan], [[1.0, 2.0]]])
def test_bad_values_are_refused(values):
    with pytest.raises(ValueError, match="statistics need"):
        mean_interval(values)


def test_unpaired_lengths_are_refused():
    with pytest.raises(ValueError, match="same windows, got 3 and 2"):
        paired_difference([1, 2, 3], [1, 2])


def test_the_bootstrap_repeats():
    values = np.random.default_rng(2).exponential(size=25)
    assert bootstrap_interval(values) == bootstrap_interval(values)
    assert bootstrap_interval(values) != bootstrap_interval(values, seed=1)


@given(st.integers(1, 500), st.data())
def test_a_share_and_its_interval_lie_between_none_and_all(count, data):
    successes = data.draw(st.integers(0, count))
    interval = proportion_interval(successes, count)
    assert 0 <= interval.low <= interval.mean <= interval.high <= 1
    assert interval.low < interval.high
    assert interval.mean == successes / count


def test_the_interval_of_a_share_holds_it_as_often_as_it_says():
    random = np.random.default_rng(0)
    intervals = [proportion_interval(int(random.binomial(40, 0.3)), 40, confidence=0.9) for _ in range(300)]
    assert 0.83 < sum(interval.low <= 0.3 <= interval.high for interval in intervals) / 300 < 0.96
    for successes, count in ((3, 2), (-1, 2), (0, 0)):
        with pytest.raises(ValueError, match="is no share"):
            proportion_interval(successes, count)
