"""What a budget can tell apart: how small a difference between two arms its seeds and documents would show."""

from collections.abc import Sequence

import numpy as np
import pandas as pd

from newllm.analysis.differences import ArmLosses, compare_pairs, knows_seeds, losses_by_arm, pooled_variance
from newllm.analysis.hours import SECONDS_PER_HOUR
from newllm.analysis.trained_alike import trials_once
from newllm.evaluation.comparison_statistics import SeedVariance, two_way_difference


def told_apart(records: pd.DataFrame, baseline: str, seeds: Sequence[int] = (1, 2, 3, 5, 10)) -> pd.DataFrame:
    """Foretell the interval of a difference between two arms from what is known of seeds and documents.

    Parameters
    ----------
    records
        Rows of `newllm.runs.records_table.load_records`, of arms that were trained alike.
    baseline
        The arm that the others are compared with.
    seeds
        Numbers of seeds of each of the two arms.

    Returns
    -------
    pandas.DataFrame
        One row for each number of ``seeds``: ``hours`` of one core for both arms (medians of trials), and ``reach``,
        half of the 95 % interval in nats per token (the median over arms). Empty where too few trials with another
        seed are there to know how much seeds vary.
    """
    known = {arm: losses for arm, losses in losses_by_arm(records).items() if losses is not None}
    if not knows_seeds(known.values()) or baseline not in known:
        return pd.DataFrame(columns=["seeds", "hours", "reach"])
    spread = pooled_variance(known.values())
    base = known.pop(baseline)
    hours = float(records["duration_seconds"].median()) / SECONDS_PER_HOUR
    return pd.DataFrame(
        [
            {
                "seeds": count,
                "hours": 2 * count * hours,
                "reach": float(np.median([_reach(losses, base, spread, count) for losses in known.values()])),
            }
            for count in seeds
        ]
    )


def told_by_text(records: pd.DataFrame, arm: str, baseline: str) -> pd.DataFrame:
    """Compare two arms after more and more text, by the same seeds everywhere.

    Parameters
    ----------
    records
        Rows of `newllm.runs.records_table.load_records`, of several numbers of windows.
    arm, baseline
        The two arms; the difference is of the first from the second.

    Returns
    -------
    pandas.DataFrame
        One row for each number of windows that both arms were trained on, the fewest first: ``samples`` (a number, or
        ``all``), ``minutes`` by the clock of one trial, ``perplexity``, ``base_perplexity``, ``seeds``, and the columns
        of `newllm.analysis.differences.compare_pairs`. How much seeds vary is known of these two arms alone.
    """
    records = trials_once(records)
    samples = pd.Series([parameters["samples"] for parameters in records["parameters"]], index=records.index)
    both = records[records["arm"].isin([arm, baseline])]
    trained = both.groupby([samples, "arm"])["seed"].agg(frozenset).unstack()
    whole = {arm, baseline} <= set(trained) and bool(trained.notna().all(axis=None))
    shared = frozenset.intersection(*trained.to_numpy().ravel()) if whole else frozenset()
    rows = []
    for count, group in both[both["seed"].isin(shared)].groupby(samples):
        perplexities = group.groupby("arm")["perplexity"].mean()
        rows.append(
            {
                "samples": count,
                "minutes": group["duration_seconds"].median() / 60,
                "perplexity": perplexities[arm],
                "base_perplexity": perplexities[baseline],
                "seeds": len(shared),
                **compare_pairs(losses_by_arm(group), [(arm, baseline)])[0],
            }
        )
    order = sorted(rows, key=lambda row: float("inf") if row["samples"] == "all" else row["samples"])
    return pd.DataFrame(order)


def _reach(ours: ArmLosses, theirs: ArmLosses, spread: SeedVariance, seeds: int) -> float:
    """Half of the interval, had both arms so many seeds: the mean of S seeds varies an S-th as much as one seed.

    And two arms of S seeds would tell of that variance with 2 (S - 1) degrees of freedom.
    """
    first, second = (next(iter(arm.by_seed.values())) for arm in (ours, theirs))
    of_mean = SeedVariance(spread.value / seeds, max(spread.freedom, 2 * (seeds - 1)))
    interval = two_way_difference([first], [second], theirs.groups, pooled_seed_variance=of_mean).interval
    return (interval.high - interval.low) / 2
