"""Intervals over seeds and documents together: they hold what they promise, and single sources of chance do not."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from newllm.evaluation.comparison_statistics import (
    NO_SEED_VARIANCE,
    SeedVariance,
    document_interval,
    holm,
    seed_variance,
    two_way_difference,
)

SEEDS, DOCUMENTS, WINDOWS = 3, 20, 6


def simulated(generator, difference, seed_deviation, document_deviation, seeds=SEEDS):
    """Losses (S, N) of two arms that differ by ``difference``, with effects of arm and seed, and of document."""
    documents = np.repeat(np.arange(DOCUMENTS), WINDOWS)
    hardness = generator.normal(0, 1, DOCUMENTS * WINDOWS)
    effect = generator.normal(0, document_deviation, DOCUMENTS)[documents]
    arms = []
    for shift in (difference + effect, np.zeros_like(effect)):
        luck = generator.normal(0, seed_deviation, (seeds, 1))
        noise = generator.normal(0, 0.02, (seeds, DOCUMENTS * WINDOWS))
        arms.append(4 + hardness + shift + luck + noise)
    return *arms, documents


@pytest.mark.parametrize(("seed_deviation", "document_deviation"), [(0.01, 0.0), (0.0, 0.05), (0.01, 0.05)])
def test_the_interval_holds_the_true_difference_as_often_as_it_says(seed_deviation, document_deviation):
    generator = np.random.default_rng(1)
    held = 0
    repetitions = 200
    for _ in range(repetitions):
        ours, theirs, documents = simulated(generator, 0.03, seed_deviation, document_deviation)
        found = two_way_difference(ours, theirs, documents, pooled_seed_variance=SeedVariance(seed_deviation**2, 100))
        held += found.interval.low <= 0.03 <= found.interval.high
    # 95 % of 200, give or take three standard errors below; wider than promised is no fault here.
    assert held / repetitions >= 0.95 - 3 * (0.95 * 0.05 / repetitions) ** 0.5


@pytest.mark.parametrize("arms_of_two_seeds", [2, 3])
def test_a_variance_of_few_seeds_makes_no_promise_that_it_cannot_keep(arms_of_two_seeds):
    """What an arm of one seed borrows from few others is uncertain too, and the interval is wider for it."""
    generator = np.random.default_rng(5)
    held = 0
    repetitions = 400
    for _ in range(repetitions):
        others = generator.normal(4, 0.01, (arms_of_two_seeds, 2))
        ours, theirs, documents = simulated(generator, 0.03, 0.01, 0.005, seeds=1)
        found = two_way_difference(ours, theirs, documents, pooled_seed_variance=seed_variance(list(others)))
        held += found.interval.low <= 0.03 <= found.interval.high
    assert held / repetitions >= 0.95 - 3 * (0.95 * 0.05 / repetitions) ** 0.5


def test_seeds_that_disagree_widen_the_interval():
    generator = np.random.default_rng(2)
    ours, theirs, documents = simulated(generator, 0.0, 0.0, 0.01)
    narrow = two_way_difference(ours, theirs, documents)
    wide = two_way_difference(ours + np.array([[0.1], [0.0], [-0.1]]), theirs, documents)
    pooled = two_way_difference(ours, theirs, documents, pooled_seed_variance=SeedVariance(0.1**2, 100))
    assert wide.standard_error > 3 * narrow.standard_error
    assert pooled.standard_error > 3 * narrow.standard_error


def test_many_windows_of_few_documents_are_no_more_than_the_documents():
    """Windows of one document repeat one another: ten copies of each tell nothing new."""
    generator = np.random.default_rng(3)
    ours, theirs, documents = simulated(generator, 0.0, 0.0, 0.05)
    once = two_way_difference(ours, theirs, documents)
    copied = two_way_difference(np.tile(ours, 10), np.tile(theirs, 10), np.tile(documents, 10))
    assert copied.standard_error == pytest.approx(once.standard_error, rel=1e-9)


def test_equivalence_needs_a_narrow_interval_and_not_only_a_small_difference():
    generator = np.random.default_rng(4)
    sure = two_way_difference(*simulated(generator, 0.002, 0.0, 0.005))
    unsure = two_way_difference(*simulated(generator, 0.002, 0.0, 0.1))
    assert sure.equivalence_p(0.01) < 0.05 < unsure.equivalence_p(0.01)
    assert two_way_difference(*simulated(generator, 0.05, 0.0, 0.005)).equivalence_p(0.01) > 0.5


def test_the_variance_of_seeds_is_pooled_over_arms():
    pooled = seed_variance([[1.0, 2.0, 3.0], [5.0, 5.0]])
    assert pooled.value == pytest.approx(2 / 3)
    assert pooled.freedom == 3
    assert seed_variance([[1.0], [2.0]]) == NO_SEED_VARIANCE


@given(st.dictionaries(st.text(min_size=1), st.floats(0, 1), min_size=1, max_size=8))
def test_holm_adjusts_upwards_in_order(p_values):
    adjusted = holm(p_values)
    assert list(adjusted) == list(p_values)
    smallest = min(p_values, key=lambda name: p_values[name])
    assert adjusted[smallest] == pytest.approx(min(1, len(p_values) * p_values[smallest]))
    for name, value in p_values.items():
        assert value <= adjusted[name] <= 1
        assert all(adjusted[name] <= adjusted[other] for other in p_values if p_values[other] > value)


def test_each_arm_brings_its_own_number_of_seeds():
    """More seeds of one arm alone narrow the interval; an arm without seeds brings no variance of them."""
    generator = np.random.default_rng(6)
    ours, theirs, documents = simulated(generator, 0.03, 0.0, 0.0)
    pooled = SeedVariance(0.01**2, 100)

    def error(seeds: int, others: int, **more):
        return two_way_difference(
            ours[:seeds], theirs[:others], documents, pooled_seed_variance=pooled, **more
        ).standard_error

    assert error(1, 1) == pytest.approx(0.01 * 2**0.5, rel=0.1)
    assert error(1, 3) == pytest.approx(0.01 * (4 / 3) ** 0.5, rel=0.1)
    assert error(1, 1, has_seeds=(False, True)) == pytest.approx(0.01, rel=0.1)


def test_false_equivalence_is_as_rare_as_it_says():
    """Of arms that differ by just the margin, one in twenty is called equivalent."""
    generator = np.random.default_rng(8)
    called = []
    for _ in range(400):
        ours, theirs, documents = simulated(generator, 0.01, 0.002, 0.002)
        found = two_way_difference(ours, theirs, documents, pooled_seed_variance=SeedVariance(0.002**2, 100))
        called.append(found.equivalence_p(0.01) < 0.05)
    assert np.mean(called) <= 0.05 + 3 * (0.05 * 0.95 / 400) ** 0.5


def test_shapes_that_do_not_agree_are_refused():
    with pytest.raises(ValueError, match="same windows"):
        two_way_difference(np.zeros((2, 3)), np.zeros((2, 4)), np.zeros(3))
    with pytest.raises(ValueError, match="same windows"):
        two_way_difference(np.zeros((0, 3)), np.zeros((2, 3)), np.zeros(3))
    with pytest.raises(ValueError, match="finite"):
        two_way_difference(np.full((2, 3), np.nan), np.zeros((2, 3)), np.arange(3))


@pytest.mark.parametrize("seeds", [1, 2, 9])
def test_one_document_has_no_interval_however_many_seeds_have_read_it(seeds):
    found = two_way_difference([[1.0, 2.0]] * seeds, [[0.5, 1.0]] * seeds, [0, 0])
    assert found.interval.mean == 0.75
    assert np.isnan([found.interval.low, found.interval.high]).all()
    assert found.p_value == 1
    assert found.equivalence_p(0.01) == 1


def test_the_interval_of_one_model_is_over_documents_as_often_as_it_says():
    generator = np.random.default_rng(3)
    documents = np.repeat(np.arange(DOCUMENTS), WINDOWS)
    held = 0
    for _ in range(200):
        values = 0.3 + generator.normal(0, 0.1, DOCUMENTS)[documents] + generator.normal(0, 0.1, len(documents))
        found = document_interval(values, documents)
        assert found.mean == pytest.approx(values.mean())
        held += found.low <= 0.3 <= found.high
    assert 180 <= held <= 199
    assert np.isnan(document_interval([1.0, 2.0], [7, 7]).low)
    with pytest.raises(ValueError, match="a document each"):
        document_interval([1.0, 2.0], [7])


def test_the_standard_error_over_documents_is_that_of_their_means():
    """Differences of three documents, 0.1, 0.2 and 0.6: variance 0.07 (two degrees of freedom), of the mean a third."""
    ours = [[4.0, 4.2, 5.3, 5.1, 6.5, 6.7]]
    theirs = [[4.0, 4.0, 5.0, 5.0, 6.0, 6.0]]
    found = two_way_difference(ours, theirs, [7, 7, 8, 8, 9, 9])
    assert found.interval.mean == pytest.approx(0.3)
    assert found.standard_error == pytest.approx((0.07 / 3) ** 0.5, rel=0.04)
    assert found.freedom == 2
    # The quantile of Student's t with two degrees of freedom.
    assert found.interval.high - found.interval.mean == pytest.approx(4.3027 * found.standard_error, rel=1e-4)


@pytest.mark.parametrize("side", [-1, 1])
def test_a_p_value_is_below_5_percent_exactly_where_the_95_percent_interval_excludes_zero(side):
    ours, theirs, documents = simulated(np.random.default_rng(2), 0.0, 0.01, 0.05)
    interval = two_way_difference(ours, theirs, documents).interval
    to_the_edge = side * (interval.high - interval.low) / 2 - interval.mean
    at_the_edge = two_way_difference(ours + to_the_edge, theirs, documents)
    assert at_the_edge.p_value == pytest.approx(0.05, abs=1e-9)
    for nearer, excludes in ((0.001, True), (-0.001, False)):
        found = two_way_difference(ours + to_the_edge + side * nearer, theirs, documents)
        assert (found.interval.low > 0 or found.interval.high < 0) == excludes == (found.p_value < 0.05)


def test_which_documents_are_drawn_changes_the_standard_error_by_little():
    ours, theirs, documents = simulated(np.random.default_rng(3), 0.0, 0.0, 0.05, seeds=1)
    errors = [two_way_difference(ours, theirs, documents, seed=seed).standard_error for seed in range(30)]
    # Of a standard error from 4,000 draws about 1.1 % (the root of 1 / 8,000), from 200 draws 5 %.
    assert np.std(errors, ddof=1) / np.mean(errors) < 0.02
