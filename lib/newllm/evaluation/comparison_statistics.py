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
        Of the difference; NaN, as the ends of the interval, where there is one document alone.
    freedom
        Degrees of freedom of the standard error.
    p_value
        Two-sided, of no difference at all.
    """

    interval: Interval
    standard_error: float
    freedom: float
    p_value: float

    def equivalence_p(self, margin: float) -> float:
        """P-value of a difference of ``margin`` or more, either way: two one-sided tests (Schuirmann 1987)."""
        if np.isnan(self.standard_error):
            return 1.0
        room = margin - abs(self.interval.mean)
        return float(stats.t.sf(room / self.standard_error, self.freedom) if self.standard_error else room <= 0)


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


@dataclass(frozen=True)
class Resampled:
    """What two arms differ by on the same windows, and how far documents and seeds move that.

    Attributes
    ----------
    mean
        Of the first less the second, nats per token.
    documents
        How many there are.
    of_documents
        Variance of the mean by another draw of documents; NaN where there is one alone.
    of_own_seeds
        For each arm of several seeds the variance of its mean by other seeds, as these show it, with its degrees of
        freedom.
    shares_of_seeds
        Sum of 1 / S over the arms that have seeds: as much of a pooled variance is in the mean; 0 takes none of it.
    """

    mean: float
    documents: int
    of_documents: float
    of_own_seeds: tuple[tuple[float, int], ...]
    shares_of_seeds: float

    def difference(
        self, pooled_seed_variance: SeedVariance = NO_SEED_VARIANCE, *, confidence: float = CONFIDENCE
    ) -> Difference:
        """Join what documents and seeds do; `two_way_difference` says how."""
        if self.documents == 1:
            # How far another document would be from this one nobody knows, however many seeds have read it.
            return Difference(Interval(self.mean, np.nan, np.nan, 1), np.nan, 0.0, 1.0)
        of_seeds = _joint(self.of_own_seeds)
        if pooled_seed_variance.freedom and self.shares_of_seeds:
            of_seeds = pooled_seed_variance.value * self.shares_of_seeds, pooled_seed_variance.freedom
        variance, freedom = _joint([of_seeds, (self.of_documents, self.documents - 1)])
        error = float(np.sqrt(variance))
        reach = float(stats.t.ppf((1 + confidence) / 2, freedom)) * error
        p_value = float(2 * stats.t.sf(abs(self.mean) / error, freedom)) if error else float(self.mean == 0)
        interval = Interval(self.mean, self.mean - reach, self.mean + reach, self.documents)
        return Difference(interval, error, freedom, p_value)


def two_way_difference(
    ours: ArrayLike,
    theirs: ArrayLike,
    documents: ArrayLike,
    *,
    has_seeds: tuple[bool, bool] = (True, True),
    pooled_seed_variance: SeedVariance = NO_SEED_VARIANCE,
    confidence: float = CONFIDENCE,
    seed: int = 0,
) -> Difference:
    """Compare two arms on the same held-out windows, seeds and documents resampled together.

    A two-way bootstrap (Owen 2007): each draw takes documents with replacement, as windows of one document hang
    together, and seeds of each arm with replacement. A bootstrap of n values finds (n - 1) / n of their variance: that
    of documents is brought to its whole, and that of seeds is replaced by the pooled variance, or by what these seeds
    show where there is none. Variances that are known from few documents and from fewer seeds make a wider interval:
    their degrees of freedom are joined by Satterthwaite's formula (1946). Of one document alone nothing is known but
    the difference itself: it has no interval, and the p-value is 1.

    Parameters
    ----------
    ours, theirs, documents, has_seeds, seed
        As for `resample`.
    pooled_seed_variance
        As `seed_variance` gives it.
    confidence
        Share of intervals that hold the true difference.

    Raises
    ------
    ValueError
        As `resample` does.
    """
    resampled = resample(ours, theirs, documents, has_seeds=has_seeds, seed=seed)
    return resampled.difference(pooled_seed_variance, confidence=confidence)


def resample(
    ours: ArrayLike,
    theirs: ArrayLike,
    documents: ArrayLike,
    *,
    has_seeds: tuple[bool, bool] = (True, True),
    seed: int = 0,
) -> Resampled:
    """Draw documents and seeds of two arms anew, as `two_way_difference` says.

    Parameters
    ----------
    ours, theirs
        Mean loss of each window for each seed, (S, N) and (R, N), nats per token; the same windows.
    documents
        The document, or the group of documents, that each window belongs to (N,).
    has_seeds
        Whether another seed would give other losses, of each of the two, as a pooled variance knows; counts have none.
    seed
        Of the draws.

    Raises
    ------
    ValueError
        Where shapes do not agree, or a loss is not finite.
    """
    arms = [np.asarray(ours, dtype=np.float64), np.asarray(theirs, dtype=np.float64)]
    groups = np.unique(np.asarray(documents), return_inverse=True)[1]
    if any(arm.ndim != 2 or not arm.size or groups.shape != arm.shape[1:] for arm in arms):
        raise ValueError(
            f"losses must be (seeds, windows) of the same windows, with a document each; got {arms[0].shape}, "
            f"{arms[1].shape} and {groups.shape}"
        )
    if not all(np.isfinite(arm).all() for arm in arms):
        raise ValueError("losses must be finite")
    count = int(groups.max()) + 1
    mean = float(arms[0].mean() - arms[1].mean())
    own = [(float(arm.mean(1).var(ddof=1)), len(arm)) for arm in arms if len(arm) > 1]
    of_own_seeds = tuple((variance / seeds, seeds - 1) for variance, seeds in own)
    shares = sum(1 / len(arm) for arm, has in zip(arms, has_seeds, strict=True) if has)
    if count == 1:
        return Resampled(mean, count, np.nan, of_own_seeds, shares)
    windows = np.bincount(groups, minlength=count).astype(np.float64)
    generator = np.random.default_rng(seed)
    # How often each document is drawn: (draws, documents).
    documents_drawn = generator.multinomial(count, np.full(count, 1 / count), size=DRAWS).astype(np.float64)
    drawn = [_drawn_means(arm, groups, windows, documents_drawn, generator) for arm in arms]
    found_by_bootstrap = sum(variance * (seeds - 1) / seeds**2 for variance, seeds in own)
    of_documents = max(float((drawn[0] - drawn[1]).var(ddof=1)) - found_by_bootstrap, 0.0) * count / (count - 1)
    return Resampled(mean, count, of_documents, of_own_seeds, shares)


def _drawn_means(
    losses: Numbers,
    groups: NDArray[np.intp],
    windows: Numbers,
    documents_drawn: Numbers,
    generator: np.random.Generator,
) -> Numbers:
    """Mean loss (draws,) of an arm (S, N) in the documents of each draw, its seeds drawn anew each time."""
    seeds = len(losses)
    sums = np.stack([np.bincount(groups, weights=row, minlength=len(windows)) for row in losses])
    seeds_drawn = generator.multinomial(seeds, np.full(seeds, 1 / seeds), size=DRAWS) / seeds
    means: Numbers = (documents_drawn @ sums.T * seeds_drawn).sum(1) / (documents_drawn @ windows)
    return means


def _joint(parts: Sequence[tuple[float, float]]) -> tuple[float, float]:
    """Add independent variances, each with its degrees of freedom, and say those of the sum (Satterthwaite, eq. 17)."""
    known = [(variance, freedom) for variance, freedom in parts if variance > 0]
    if not known:
        return 0.0, float(max((freedom for _, freedom in parts), default=0))
    total = sum(variance for variance, _ in known)
    return total, total**2 / sum(variance**2 / freedom for variance, freedom in known)


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


def document_interval(values: ArrayLike, documents: ArrayLike, confidence: float = CONFIDENCE) -> Interval:
    """Mean of something measured in windows of one model, with its interval over documents.

    Windows of one document hang together, so documents are resampled, as in `two_way_difference`.

    Parameters
    ----------
    values
        Of each window (N,).
    documents
        The document, or the group of documents, that each belongs to (N,). A single one gives no interval.
    confidence
        Share of intervals that hold the true mean.

    Raises
    ------
    ValueError
        Where shapes do not agree, or a value is not finite.
    """
    row = np.asarray(values, dtype=np.float64)[None]
    compared = two_way_difference(row, np.zeros_like(row), documents, has_seeds=(False, False), confidence=confidence)
    return compared.interval
