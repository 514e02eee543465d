"""Near-duplicates: the pairs that comparing every shingle with every other finds."""

import itertools

from hypothesis import given, settings
from hypothesis import strategies as st

from newllm.data.near_duplicates import SHINGLE_WORDS, near_duplicates

# Few words, so that texts overlap.
TEXTS = st.lists(st.lists(st.sampled_from("abc"), max_size=14).map(" ".join), max_size=12)


def shingles(text: str) -> set[tuple[str, ...]]:
    words = text.split()
    length = min(SHINGLE_WORDS, len(words))
    return {tuple(words[start : start + length]) for start in range(len(words) - length + 1)} if words else set()


@given(TEXTS, st.sampled_from([0.2, 0.5, 0.75, 1.0]))
@settings(max_examples=100, deadline=None)
def test_the_pairs_are_those_of_the_definition(texts: list[str], resemblance: float) -> None:
    sets = [shingles(text) for text in texts]
    expected = {
        (first, second)
        for first, second in itertools.combinations(range(len(texts)), 2)
        if sets[first] and sets[second]
        if len(sets[first] & sets[second]) >= resemblance * len(sets[first] | sets[second])
    }
    assert {tuple(pair) for pair in near_duplicates(texts, resemblance).tolist()} == expected
