"""Comparisons over seeds and documents together: one interval, equivalence, and many comparisons at once.

A difference between two models is uncertain for two reasons: other seeds would have given other weights, and other
documents other losses. An interval over one of them alone is too narrow.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import stats

from newllm.evaluation.statistics import CONFIDENCE, Interval

Numbers = NDArray[np.float64]
DRAWS = 4_000


@dataclass(frozen=True)
class Difference:
    """How much one arm is behind another, in nats a token.

    Attributes
    ----------
    interval
        The difference and its 95 % interval over seeds and documents together; negative: the first is better.
    standard_error
        Of the difference.
    freedom
        Degrees of freedom of the standard error.
    p_value
        Two-sided, of no difference at all.
    """

    interval: Interval
    standard_error: float
    freedom: float
    p_value: float

    def is_equivalent(self, margin: float, confidence: float = CONFIDENCE) -> bool:
        """Tell whether the difference lies within ``margin`` either way: two one-sided tests (Schuirmann 1987)."""
        reach = stats.t.ppf(confidence, self.freedom) * self.standard_error
        return abs(self.interval.mean) + float(reach) < margin


@dataclass(frozen=True)
class SeedVariance:
    """How much the loss of an arm varies from seed to seed, and how well that is known.

    Attributes
    ----------
    value
        Variance of a single seed's mean loss, of nats per token.
    freedom
        Degrees of freedom of the estimate: the seeds of all arms, less one for each arm; 0 where nothing is known.
    """

    value: float = 0.0
    freedom: int = 0


NO_SEED_VARIANCE = SeedVariance()


def seed_variance(losses: Sequence[ArrayLike]) -> SeedVariance:
    """Pool over arms how much the mean loss of an arm varies from seed to seed.

    Three seeds tell little of their variance; all arms together tell more, where they vary alike.

    Parameters
    ----------
    losses
        For each arm the mean held-out loss of each seed (S,), nats per token.

    Returns
    -------
    SeedVariance
        Of a single seed's loss; with no degree of freedom where no arm has two seeds.
    """
    groups = [np.asarray(values, dtype=np.float64) for values in losses]
    freedom = sum(len(values) - 1 for values in groups)
    squares = sum(float(((values - values.mean()) ** 2).sum()) for values in groups)
    return SeedVariance(squares / freedom, freedom) if freedom else NO_SEED_VARIANCE


def two_way_difference(
    ours: ArrayLike,
    theirs: ArrayLike,
    documents: ArrayLike,
    *,
    pooled_seed_variance: SeedVariance = NO_SEED_VARIANCE,
    confidence: float = CONFIDENCE,
    seed: int = 0,
) -> Difference:
    """Compare two arms on the same held-out windows, seeds and documents resampled together.

    A two-way bootstrap (Owen 2007): each draw takes documents with replacement, as windows of one document hang
    together, and seeds with replacement. As a bootstrap of few seeds finds too little of their variance, what the
    pooled variance adds to it is added to the square of the standard error. Variances that are known from few documents
    and from fewer seeds make a wider interval: their degrees of freedom are joined by Satterthwaite's formula (1946).

    Parameters
    ----------
    ours, theirs
        Mean loss of each window for each seed (S, N), nats per token; the same windows, and paired seeds.
    documents
        The document, or the group of documents, that each window belongs to (N,).
    pooled_seed_variance
        As `seed_variance` gives it.
    confidence
        Share of intervals that hold the true difference.
    seed
        Of the draws.

    Raises
    ------
    ValueError
        Where shapes do not agree, or a loss is not finite.
    """
    first, second = np.asarray(ours, dtype=np.float64), np.asarray(theirs, dtype=np.float64)
    groups = np.unique(np.asarray(documents), return_inverse=True)[1]
    if first.shape != second.shape or first.ndim != 2 or groups.shape != first.shape[1:]:
        raise ValueError(
            f"losses must be (seeds, windows) of the same windows, with a document each; got {first.shape}, "
            f"{second.shape} and {groups.shape}"
        )
    if not (np.isfinite(first).all() and np.isfinite(second).all()):
        raise ValueError("losses must be finite")
    differences = first - second
    seeds, count = len(differences), int(groups.max()) + 1
    windows = np.bincount(groups, minlength=count).astype(np.float64)
    sums = np.stack([np.bincount(groups, weights=row, minlength=count) for row in differences])
    generator = np.random.default_rng(seed)
    # How often each document and each seed is drawn: (draws, documents) and (draws, seeds).
    documents_drawn = generator.multinomial(count, np.full(count, 1 / count), size=DRAWS).astype(np.float64)
    seeds_drawn = generator.multinomial(seeds, np.full(seeds, 1 / seeds), size=DRAWS) / seeds
    draws = (documents_drawn @ sums.T * seeds_drawn).sum(1) / (documents_drawn @ windows)
    mean = float(differences.mean())
    # Two independent arms of S seeds each. A bootstrap of S values finds (S - 1) / S of their variance.
    spread = float(differences.mean(1).var(ddof=1)) if seeds > 1 else 0.0
    of_seeds = max(2 * pooled_seed_variance.value, spread) / seeds
    of_documents = max(float(draws.var(ddof=1)) - spread * (seeds - 1) / seeds**2, 0.0)
    error = float(np.sqrt(of_seeds + of_documents))
    freedom = _joint_freedom(
        [(of_seeds, max(pooled_seed_variance.freedom, seeds - 1)), (of_documents, max(count - 1, 1))]
    )
    reach = float(stats.t.ppf((1 + confidence) / 2, freedom)) * error
    if count == 1 and seeds == 1:
        # One document read with one seed: how far another one would be from it, nobody knows.
        return Difference(Interval(mean, np.nan, np.nan, count), np.nan, freedom, 1.0)
    p_value = float(2 * stats.t.sf(abs(mean) / error, freedom)) if error else float(mean == 0)
    return Difference(Interval(mean, mean - reach, mean + reach, count), error, freedom, p_value)


def _joint_freedom(parts: Sequence[tuple[float, int]]) -> float:
    """Degrees of freedom of a sum of independent variances, each given with its own (Satterthwaite 1946, eq. 17)."""
    known = [(variance, freedom) for variance, freedom in parts if variance > 0]
    if not known:
        return float(max(freedom for _, freedom in parts))
    return sum(variance for variance, _ in known) ** 2 / sum(variance**2 / freedom for variance, freedom in known)


def holm(p_values: Mapping[str, float]) -> dict[str, float]:
    """Adjust p-values of comparisons that were named together (Holm 1979).

    Parameters
    ----------
    p_values
        By the name of the comparison.

    Returns
    -------
    dict
        The adjusted ones: below 0.05 means significant among all of them at 5 %.
    """
    adjusted: dict[str, float] = {}
    largest = 0.0
    for rank, (name, value) in enumerate(sorted(p_values.items(), key=lambda item: item[1])):
        largest = max(largest, min((len(p_values) - rank) * value, 1.0))
        adjusted[name] = largest
    return {name: adjusted[name] for name in p_values}
