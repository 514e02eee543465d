"""How much a seed changes each arm, and which verdicts depend on taking it for the same of all."""

from collections.abc import Hashable, Mapping

import pandas as pd
from scipy import stats

from newllm.analysis.differences import ArmLosses, judge_pairs, losses_by_arm, pooled_variance, resample_pairs
from newllm.analysis.summary import floor_losses
from newllm.analysis.trained_alike import budgets_of, rows_apart
from newllm.experiments.floor import floors_of

SEEDS_THAT_VARY = 2


Losses = Mapping[Hashable, ArmLosses | None]


def losses_of_budget(records: pd.DataFrame, baseline: str) -> dict[Hashable, ArmLosses | None]:
    """Read the losses of what was trained as the baseline was, and of the counts of its text, by name.

    Parameters
    ----------
    records
        Rows of `newllm.experiments.comparison.compare`.
    baseline
        The arm whose budget is asked.
    """
    apart = rows_apart(records, baseline)
    budgets = budgets_of(apart)
    alike = apart[budgets.isin(budgets[apart["arm"] == baseline])]
    floors = {row["arm"]: floor_losses(floor, row["arm"]) for floor in floors_of(alike) for row in floor.rows()}
    return losses_by_arm(alike) | floors


def seed_spread(losses: Losses) -> pd.DataFrame:
    """Say how much the mean test loss of each arm varies from seed to seed.

    Parameters
    ----------
    losses
        As `losses_of_budget` reads them.

    Returns
    -------
    pandas.DataFrame
        One row an arm that has two seeds or more, the steadiest first: ``arm``, ``seeds`` and ``spread``, the standard
        deviation over them (nats a token).
    """
    rows = [
        {"arm": arm, "seeds": len(own.by_seed), "spread": pooled_variance([own]).value ** 0.5}
        for arm, own in _varying(losses).items()
    ]
    return pd.DataFrame(rows, columns=["arm", "seeds", "spread"]).sort_values("spread", ignore_index=True)


def p_of_equal_spread(losses: Losses) -> float:
    """Test whether a seed changes all arms alike (Bartlett 1937), as pooling takes it; NaN with fewer than two arms.

    Parameters
    ----------
    losses
        As `losses_of_budget` reads them.
    """
    means = [own.means() for own in _varying(losses).values()]
    return float(stats.bartlett(*means).pvalue) if len(means) > 1 else float("nan")


def verdicts_by_pooling(losses: Losses, baseline: str) -> pd.DataFrame:
    """Find the verdicts that change where a single arm says nothing of how much a seed changes the others.

    Parameters
    ----------
    losses
        As `losses_of_budget` reads them; counts of n-grams are compared, too, as in every table of arms.
    baseline
        The arm that differences are from.

    Returns
    -------
    pandas.DataFrame
        One row for each arm and arm that is left out of the pool: ``arm``, ``left_out`` and the columns of
        `newllm.analysis.differences.compare_pairs`; first those with ``left_out`` empty, as they are published.
    """
    pairs = [(arm, baseline) for arm in losses if arm != baseline]
    resampled = resample_pairs(losses, pairs)
    rows = []
    for left_out in ("", *_varying(losses)):
        pool = pooled_variance(known for arm, known in losses.items() if arm != left_out)
        for (arm, _), found in zip(pairs, judge_pairs(resampled, pool), strict=True):
            rows.append({"arm": arm, "left_out": left_out, **found})
    return pd.DataFrame(rows)


def _varying(losses: Losses) -> dict[Hashable, ArmLosses]:
    return {arm: known for arm, known in losses.items() if known is not None and len(known.by_seed) >= SEEDS_THAT_VARY}
