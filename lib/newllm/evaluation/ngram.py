"""An n-gram model with interpolated Kneser-Ney smoothing: what counts alone say, the floor of every comparison.

A neural model that is above it has not learned what a table of counts knows, and tells nothing about memory.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

Keys = NDArray[np.uint64]
KEY_BITS = 64


class NGramError(ValueError):
    """Counts that cannot be made; the message says why."""


@dataclass(frozen=True)
class _Order:
    """Counts of one order: n-grams as numbers in base V, the last token the last digit.

    Attributes
    ----------
    grams, counts
        Every n-gram that was seen (G,), ascending, and how often it counts.
    histories, totals, followers
        Every history that was seen (C,), ascending; the sum of the counts, and the number, of its n-grams.
    discount
        What is taken off each count.
    """

    grams: Keys
    counts: NDArray[np.float64]
    histories: Keys
    totals: NDArray[np.float64]
    followers: NDArray[np.float64]
    discount: float

    @classmethod
    def count(cls, grams: Keys, counts: NDArray[np.int64], vocabulary: int) -> "_Order":
        histories, starts = np.unique(grams // np.uint64(vocabulary), return_index=True)
        once, twice = int((counts == 1).sum()), int((counts == 2).sum())
        return cls(
            grams,
            counts.astype(np.float64),
            histories,
            np.add.reduceat(counts, starts).astype(np.float64),
            np.diff(np.append(starts, len(grams))).astype(np.float64),
            # Ney, Essen and Kneser (1994), eq. 22; one half where the text is too short to tell.
            once / (once + 2 * twice) if once and twice else 0.5,
        )

    def interpolate(self, grams: Keys, histories: Keys, lower: NDArray[np.float64]) -> NDArray[np.float64]:
        """Return the probabilities of n-grams, given those of the order below; unseen histories leave the latter."""
        is_gram, gram = _find(self.grams, grams)
        is_history, history = _find(self.histories, histories)
        counted = np.where(is_gram, np.maximum(self.counts[gram] - self.discount, 0.0), 0.0)
        left = self.discount * self.followers[history]
        return np.where(is_history, (counted + left * lower) / self.totals[history], lower)


def _find(known: Keys, wanted: Keys) -> tuple[NDArray[np.bool_], NDArray[np.int64]]:
    """Return whether each key is known, and its place among the known ones (0 where it is not)."""
    place = np.searchsorted(known, wanted)
    place[place == len(known)] = 0
    found = known[place] == wanted
    return found, np.where(found, place, 0)


class KneserNey:
    """An interpolated Kneser-Ney model of one order (Kneser and Ney 1995; Chen and Goodman 1999, sec. 2.8).

    The highest order counts n-grams, every lower one the different tokens before an n-gram; one discount an order. The
    order of one token is mixed with the uniform distribution, so that no token of the vocabulary is impossible.

    Parameters
    ----------
    windows
        Training ids (N, T + 1); no n-gram reaches over the end of a window.
    order
        Longest n-gram, 1 or more: its last token is predicted from the others.
    vocabulary
        Number of token ids V.

    Raises
    ------
    NGramError
        Where ids do not fit the vocabulary, or n-grams of this order no 64 bits.
    """

    def __init__(self, windows: ArrayLike, order: int, vocabulary: int) -> None:
        ids = np.asarray(windows)
        if order < 1 or order * np.log2(vocabulary) > KEY_BITS:
            raise NGramError(
                f"order {order} must be at least 1, and at most {int(KEY_BITS / np.log2(vocabulary))} here"
            )
        if ids.ndim != 2 or ids.shape[1] < order or not ids.size or ids.min() < 0 or ids.max() >= vocabulary:
            raise NGramError(f"windows must be rows of at least {order} ids below {vocabulary}, got {ids.shape}")
        self.order = order
        self.vocabulary = vocabulary
        grams, counts = np.unique(_keys(ids, order, vocabulary), return_counts=True)
        orders = [_Order.count(grams, counts, vocabulary)]
        for length in range(order - 1, 0, -1):
            # An n-gram counts once for each different token before it.
            seen = np.unique(_keys(ids, length + 1, vocabulary))
            grams, counts = np.unique(seen % np.uint64(vocabulary) ** np.uint64(length), return_counts=True)
            orders.append(_Order.count(grams, counts, vocabulary))
        self._orders = orders[::-1]

    def token_losses(self, windows: ArrayLike) -> NDArray[np.float64]:
        """Score every token but the first of each window, from at most ``order - 1`` tokens before it in the window.

        Parameters
        ----------
        windows
            Ids (N, T + 1).

        Returns
        -------
        numpy.ndarray
            Negative log-likelihoods (N, T), nats.
        """
        ids = np.asarray(windows)
        predicted = ids[:, 1:]
        probabilities = np.full(predicted.shape, 1.0 / self.vocabulary)
        for length, counts in enumerate(self._orders, start=1):
            # The first tokens of a window have shorter histories, and stay with the order that fits.
            first = max(length - 2, 0)
            grams = _keys(ids, length, self.vocabulary)[:, max(2 - length, 0) :]
            reached = probabilities[:, first:]
            probabilities[:, first:] = counts.interpolate(
                grams.ravel(), (grams // np.uint64(self.vocabulary)).ravel(), reached.ravel()
            ).reshape(reached.shape)
        return -np.log(probabilities)


def _keys(ids: NDArray[np.integer], length: int, vocabulary: int) -> Keys:
    """Return every run of so many ids in a row (N, W) as one number: (N, W - length + 1)."""
    keys = np.zeros((ids.shape[0], ids.shape[1] - length + 1), dtype=np.uint64)
    for place in range(length):
        keys = keys * np.uint64(vocabulary) + ids[:, place : place + keys.shape[1]].astype(np.uint64)
    return keys
