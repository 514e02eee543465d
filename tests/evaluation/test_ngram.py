"""The n-gram floor: a distribution, equal to the formula written out, and better with what it was taught."""

import math
from collections import Counter

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from newllm.evaluation.ngram import KneserNey, NGramError

VOCABULARY = 5


def written_out(train, order, history, token):
    """Chen and Goodman (1999), eq. 19 to 25, with dictionaries; discounts by the same rule."""

    def grams(length):
        return [tuple(row[i : i + length]) for row in train for i in range(len(row) - length + 1)]

    def counts_of(length):
        if length == order:
            return Counter(grams(length))
        return Counter(gram[1:] for gram in set(grams(length + 1)))

    def probability(history, token):
        length = len(history) + 1
        counts = counts_of(length)
        once, twice = (sum(count == n for count in counts.values()) for n in (1, 2))
        discount = once / (once + 2 * twice) if once and twice else 0.5
        lower = 1 / VOCABULARY if length == 1 else probability(history[1:], token)
        following = {gram[-1]: count for gram, count in counts.items() if gram[:-1] == history}
        if not following:
            return lower
        total = sum(following.values())
        counted = max(following.get(token, 0) - discount, 0) if token in following else 0
        return (counted + discount * len(following) * lower) / total

    # A history that is shorter than the order allows is one of a lower order of the same model.
    return probability(tuple(history), token)


rows = st.lists(st.lists(st.integers(0, VOCABULARY - 1), min_size=7, max_size=7), min_size=1, max_size=6)


@given(train=rows, held_out=rows, order=st.integers(1, 4))
def test_equal_to_the_formula_written_out(train, held_out, order):
    losses = KneserNey(np.array(train), order, VOCABULARY).token_losses(np.array(held_out))
    for row, found in zip(held_out, losses, strict=True):
        for place, loss in enumerate(found, start=1):
            expected = written_out(train, order, row[max(0, place - order + 1) : place], row[place])
            assert loss == pytest.approx(-math.log(expected), abs=1e-12)


@given(train=rows, history=st.lists(st.integers(0, VOCABULARY - 1), min_size=3, max_size=3), order=st.integers(1, 4))
def test_the_probabilities_of_all_tokens_sum_to_one(train, history, order):
    model = KneserNey(np.array(train), order, VOCABULARY)
    windows = np.array([[*history, token] for token in range(VOCABULARY)])
    assert np.exp(-model.token_losses(windows)[:, -1]).sum() == pytest.approx(1, abs=1e-12)


def test_longer_histories_help_where_they_decide():
    """Text in which the next token depends on the two before it: a bigram cannot know it, a trigram can."""
    generator = np.random.default_rng(0)
    ids = generator.integers(0, 2, size=(400, 30))
    for place in range(2, 30):
        ids[:, place] = np.where(generator.random(400) < 0.95, ids[:, place - 1] ^ ids[:, place - 2], ids[:, place])
    bigram, trigram = (KneserNey(ids[:300], order, 2).token_losses(ids[300:]).mean() for order in (2, 3))
    assert bigram > 0.65
    assert trigram < 0.25


@pytest.mark.parametrize(
    ("windows", "order", "vocabulary", "message"),
    [
        ([[0, 1, 2]], 0, 5, "at least 1"),
        ([[0, 1, 2]], 5, 50304, "at most 4"),
        ([[0, 7, 2]], 2, 5, "below 5"),
        ([[0, 1]], 3, 5, "rows of at least 3"),
    ],
)
def test_impossible_counts_are_refused(windows, order, vocabulary, message):
    with pytest.raises(NGramError, match=message):
        KneserNey(np.array(windows), order, vocabulary)
