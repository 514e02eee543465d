"""Means over the seeds of many arms, with intervals from how much a seed changes any of them."""

from collections.abc import Hashable, Mapping, Sequence
from typing import TypeVar

import numpy as np
from scipy import stats

from newllm.evaluation.comparison_statistics import seed_variance
from newllm.evaluation.statistics import CONFIDENCE, Interval

Key = TypeVar("Key", bound=Hashable)


def seed_intervals(
    values: Mapping[Key, Sequence[float]], *, is_ratio: bool = False, confidence: float = CONFIDENCE
) -> dict[Key, Interval]:
    """Average each arm over its seeds; what a seed changes is pooled over all arms, as if it changed them alike.

    Two seeds of one arm say almost nothing of a third: Student's t for one degree of freedom is 12.7. Those of many
    arms together say more, also of an arm that has one seed.

    Parameters
    ----------
    values
        For each arm one finite number a seed (S,).
    is_ratio
        Whether a seed changes the numbers by a share of them, as it does perplexities: then their logarithms are
        pooled, and the ends of an interval are as many times the mean.
    confidence
        Share of intervals that hold the true mean.

    Returns
    -------
    dict
        The arithmetic mean of each arm with its interval; without ends where no arm has two seeds.
    """
    pooled = seed_variance([np.log(numbers) if is_ratio else numbers for numbers in values.values()])
    reach = float(stats.t.ppf((1 + confidence) / 2, pooled.freedom)) if pooled.freedom else np.nan
    intervals = {}
    for key, numbers in values.items():
        mean, half = float(np.mean(numbers)), reach * float(np.sqrt(pooled.value / len(numbers)))
        low, high = (mean * np.exp(-half), mean * np.exp(half)) if is_ratio else (mean - half, mean + half)
        intervals[key] = Interval(mean, float(low), float(high), len(numbers))
    return intervals
