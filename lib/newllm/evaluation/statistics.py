"""Means with their uncertainty: over seeds, over paired windows, over facts."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import stats

CONFIDENCE = 0.95
BOOTSTRAP_DRAWS = 10_000


@dataclass(frozen=True)
class Interval:
    """A mean and its confidence interval.

    Attributes
    ----------
    mean
        Mean of the values.
    low, high
        Ends of the interval; NaN where one value gives none.
    count
        How many values there were.
    """

    mean: float
    low: float
    high: float
    count: int

    def __str__(self) -> str:
        """Return "mean [low, high]"."""
        return f"{self.mean:.4g} [{self.low:.4g}, {self.high:.4g}]" if self.count > 1 else f"{self.mean:.4g}"

    def columns(self, name: str) -> dict[str, float]:
        """Return it as columns of a table: the mean as ``name``, the ends as ``name_low`` and ``name_high``."""
        return {name: self.mean, f"{name}_low": self.low, f"{name}_high": self.high}


def _checked(values: ArrayLike) -> NDArray[np.float64]:
    array = np.asarray(values, dtype=np.float64)
    if array.ndim != 1 or array.size == 0:
        raise ValueError(f"statistics need a row of at least one number, got the shape {array.shape}")
    if not np.isfinite(array).all():
        raise ValueError("statistics need finite numbers; one of them is NaN or infinite")
    return array


def mean_interval(values: ArrayLike, confidence: float = CONFIDENCE) -> Interval:
    """Mean of independent values, such as one number a seed, with Student's t interval.

    Parameters
    ----------
    values
        Numbers (N,). One number gives a mean without an interval.
    confidence
        Share of intervals that hold the true mean.

    Raises
    ------
    ValueError
        Where there is no number, or one that is not finite.
    """
    array = _checked(values)
    mean = float(array.mean())
    if array.size == 1:
        return Interval(mean, np.nan, np.nan, 1)
    half = float(stats.sem(array) * stats.t.ppf((1 + confidence) / 2, array.size - 1))
    return Interval(mean, mean - half, mean + half, array.size)


def paired_difference(a: ArrayLike, b: ArrayLike, confidence: float = CONFIDENCE) -> Interval:
    """Mean of ``a - b`` for two models on the same windows (or seeds), with the t interval of the differences.

    What makes a window hard is the same for both models and cancels, so the interval is far narrower than that of
    either mean. Windows of one document are not quite independent: the interval is slightly too narrow.

    Parameters
    ----------
    a, b
        Losses (N,), in the same order of windows.

    Raises
    ------
    ValueError
        Where the two differ in length.
    """
    first, second = _checked(a), _checked(b)
    if first.shape != second.shape:
        raise ValueError(f"paired values must come from the same windows, got {first.size} and {second.size} of them")
    return mean_interval(first - second, confidence)


def bootstrap_interval(values: ArrayLike, confidence: float = CONFIDENCE, seed: int = 0) -> Interval:
    """Mean of independent values with its percentile bootstrap interval: for values far from a normal distribution.

    Parameters
    ----------
    values
        Numbers (N,).
    confidence
        Share of resampled means inside the interval.
    seed
        Seed of the resampling.
    """
    array = _checked(values)
    mean = float(array.mean())
    if array.size == 1:
        return Interval(mean, np.nan, np.nan, 1)
    drawn = np.random.default_rng(seed).integers(array.size, size=(BOOTSTRAP_DRAWS, array.size))
    low, high = np.quantile(array[drawn].mean(1), [(1 - confidence) / 2, (1 + confidence) / 2])
    return Interval(mean, float(low), float(high), array.size)


def proportion_interval(successes: int, count: int, confidence: float = CONFIDENCE) -> Interval:
    """Share of successes among independent trials, such as right answers, with Wilson's interval.

    Parameters
    ----------
    successes, count
        Of how many trials so many succeeded.
    confidence
        Share of intervals that hold the true share.

    Raises
    ------
    ValueError
        Where there is no trial, or there are more successes than trials.
    """
    if not 0 <= successes <= count or count < 1:
        raise ValueError(f"{successes} of {count} is no share")
    found = stats.binomtest(successes, count).proportion_ci(confidence, method="wilson")
    return Interval(successes / count, float(found.low), float(found.high), count)
