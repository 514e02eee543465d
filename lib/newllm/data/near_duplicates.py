"""Which documents are near-duplicates of one another: exact overlap of their shingles.

The resemblance of two documents is the Jaccard index of their sets of shingles, runs of some words (Broder 1997, "On
the resemblance and containment of documents"). It is computed exactly, and only for pairs that share one of their
rarest shingles: two sets whose resemblance is at least r share one of the first n - ceil(r n) + 1 of either, in any
order that both are brought into (prefix filtering; Chaudhuri, Ganti and Kaushik 2006, "A primitive operator for
similarity joins in data cleaning").
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_array, triu

SHINGLE_WORDS = 5
RESEMBLANCE = 0.5

# Odd, so that products with it lose nothing modulo 2^64; the fraction of the golden ratio spreads them (Knuth).
_MULTIPLIER = 0x9E3779B97F4A7C15


def near_duplicates(texts: Sequence[str], resemblance: float = RESEMBLANCE) -> NDArray[np.int64]:
    """Find the pairs of documents that resemble each other.

    Parameters
    ----------
    texts
        The documents.
    resemblance
        The least share of common shingles among all shingles of both, over 0.

    Returns
    -------
    numpy.ndarray
        Indices of the documents of each pair (pairs, 2), the smaller first.
    """
    sets = _shingle_sets(texts)
    sizes = np.array([len(shingles) for shingles in sets], dtype=np.int64)
    if not sizes.sum():
        return np.empty((0, 2), dtype=np.int64)
    _, columns, frequencies = np.unique(np.concatenate(sets), return_inverse=True, return_counts=True)
    # Columns from the rarest shingle to the most frequent one: then a row's first columns are its rarest shingles.
    order = np.empty(len(frequencies), dtype=np.int64)
    order[np.argsort(frequencies, kind="stable")] = np.arange(len(frequencies))
    starts = np.concatenate([[0], np.cumsum(sizes)])
    shape = (len(sets), len(frequencies))
    has = csr_array((np.ones(len(columns), dtype=np.int32), order[columns], starts), shape=shape)
    has.sort_indices()
    prefixes = sizes - np.ceil(resemblance * sizes).astype(np.int64) + (sizes > 0)
    in_prefix = np.arange(len(columns)) - np.repeat(starts[:-1], sizes) < np.repeat(prefixes, sizes)
    rare = csr_array(
        (has.data[in_prefix], has.indices[in_prefix], np.concatenate([[0], np.cumsum(prefixes)])), shape=shape
    )
    candidates = triu(rare @ rare.T, k=1).tocoo()
    first, second = candidates.row, candidates.col
    shared = has[first].multiply(has[second]).sum(axis=1)
    alike = shared >= resemblance * (sizes[first] + sizes[second] - shared)
    return np.stack([first[alike], second[alike]], axis=1).astype(np.int64)


def _shingle_sets(texts: Sequence[str]) -> list[NDArray[np.uint64]]:
    """Give the distinct shingles of each text as numbers; a text of fewer words is one shingle."""
    numbers: dict[str, int] = {}
    sets = []
    for text in texts:
        words = np.array([numbers.setdefault(word, len(numbers) + 1) for word in text.split()], dtype=np.uint64)
        length = min(SHINGLE_WORDS, len(words))
        shingles = np.zeros(len(words) - length + 1 if length else 0, dtype=np.uint64)
        for start in range(length):
            shingles = _mixed(shingles + words[start : start + len(shingles)])
        sets.append(np.unique(shingles))
    return sets


def _mixed(values: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """Spread numbers over 64 bits."""
    values = values * np.uint64(_MULTIPLIER)
    return values ^ (values >> np.uint64(29))
