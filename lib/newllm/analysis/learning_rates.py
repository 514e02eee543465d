"""Which learning rate suits each arm, and whether a grid of them settles which arm is best."""

import math
from collections.abc import Sequence

import pandas as pd

from newllm.analysis.differences import compare_pairs, losses_by_arm
from newllm.analysis.trained_alike import budgets_of, trials_once
from newllm.config.errors import ParameterError
from newllm.config.fields import ADAMW
from newllm.evaluation.statistics import paired_difference
from newllm.experiments.arms import Arm

LOSS = "validation_loss"
MIDDLE = "inside"


def with_learning_rate(records: pd.DataFrame) -> pd.DataFrame:
    """Add the column ``learning_rate``: of the rates of main training the one that differs among an arm's records.

    There are two, that of AdamW and, where Muon takes the matrices, that of Muon. Where neither differs it is AdamW's.

    Parameters
    ----------
    records
        Rows of `newllm.runs.records_table.load_records`.

    Raises
    ------
    ParameterError
        Where both differ, as one grid says nothing of either alone, or not all were trained by one optimiser.
    """
    rates = []
    for arm, rows in records.groupby("arm", sort=False):
        of_adamw = "stream_lr" if Arm.parse(rows["method"].iloc[0]).reads_stream else "lr"
        tried = {name: [row[name] for row in rows["parameters"]] for name in (of_adamw, "matrix_lr")}
        varied = [name for name, values in tried.items() if len(set(values)) > 1]
        if ADAMW in tried["matrix_lr"] and "matrix_lr" in varied:
            raise ParameterError(f"{arm} was trained with Muon and without: that is no grid of learning rates.")
        if len(varied) > 1:
            raise ParameterError(f"{arm} has several values of both {' and '.join(varied)}: vary one at a time.")
        rates.append(pd.Series(tried[varied[0] if varied else of_adamw], index=rows.index))
    return records.assign(learning_rate=pd.concat(rates))


def best_learning_rates(records: pd.DataFrame, by: Sequence[str] = ("arm",)) -> pd.DataFrame:
    """Find for each arm the learning rate with the lowest held-out loss, and whether the grid encloses it.

    Parameters
    ----------
    records
        Rows of `newllm.runs.records_table.load_records`, the same seeds at every learning rate. A loss that is
        missing is one that was not finite.
    by
        Columns that tell apart what has a best learning rate of its own.

    Returns
    -------
    pandas.DataFrame
        One row for each value of ``by``, the lowest loss first: ``learning_rate``, ``validation_loss`` (nats per token,
        mean over seeds), ``seeds``, ``grid`` (the learning rates that were tried, ascending), ``place`` of the best one
        in the grid (``inside``, ``lowest``, ``highest`` or ``only``) and ``established``: whether it lies inside, so
        that a better one outside is not to be expected.

    Raises
    ------
    ParameterError
        Where an arm was not run with the same seeds at each learning rate: means over other seeds do not compare.
    """
    rows = []
    for key, group in with_learning_rate(records).groupby(list(by), sort=False, dropna=False):
        seeds = {rate: frozenset(rows["seed"]) for rate, rows in group.groupby("learning_rate")}
        if len(set(seeds.values())) > 1:
            name = ", ".join(map(str, key))
            raise ParameterError(f"{name} has not the same seeds at each learning rate: finish the grid first.")
        losses = group[LOSS].fillna(math.inf).groupby(group["learning_rate"]).mean().sort_index()
        grid = tuple(losses.index)
        best = grid[int(losses.argmin())]
        place = "only" if len(grid) == 1 else {grid[0]: "lowest", grid[-1]: "highest"}.get(best, MIDDLE)
        rows.append(
            {
                **dict(zip(by, key, strict=True)),
                "learning_rate": best,
                LOSS: losses.min(),
                "seeds": len(seeds[best]),
                "grid": grid,
                "place": place,
                "established": place == MIDDLE,
            }
        )
    return pd.DataFrame(rows).sort_values(LOSS, ignore_index=True)


def judge(records: pd.DataFrame) -> str:
    """Say in one sentence which arm is best at its own best learning rate, or why that is not established.

    Parameters
    ----------
    records
        As in `best_learning_rates`, of two arms or more.
    """
    best = best_learning_rates(records)
    open_arms = [
        f"{row['arm']} has one only"
        if row["place"] == "only"
        else f"that of {row['arm']}, {row['learning_rate']:g}, is the {row['place']} that was tried"
        for _, row in best[~best["established"]].iterrows()
    ]
    if open_arms:
        return f"No winner is established, as each best learning rate must lie inside a grid: {'; '.join(open_arms)}."
    if len(best) == 1:
        return f"{best['arm'][0]} stands alone: a winner needs arms to be compared with."
    rated = with_learning_rate(records)
    first, second = (
        rated[(rated["arm"] == row["arm"]) & (rated["learning_rate"] == row["learning_rate"])].set_index("seed")[LOSS]
        for _, row in best.head(2).iterrows()
    )
    shared = first.index.intersection(second.index)
    names = (
        f"{best['arm'][0]} has the lowest held-out loss and {best['arm'][1]} the next, each at its best learning rate"
    )
    if len(shared) < 2:
        return f"{names}; no winner is established on {len(shared)} shared seed: run more."
    difference = paired_difference(first[shared], second[shared])
    verdict = "an established winner" if difference.high < 0 else "no established winner: the interval holds zero"
    return f"{names}: {difference} nats per token over {len(shared)} seeds, {verdict}."


def gained_by_rates(others: pd.DataFrame, usual: pd.DataFrame) -> pd.DataFrame:
    """Compare arms at another learning rate of the matrices with themselves at the one that all arms of a table have.

    Parameters
    ----------
    others
        Rows of `newllm.runs.records_table.load_records`, trained like ``usual`` but for that rate.
    usual
        Those of the table, all at one rate; how much seeds vary is pooled over all of its arms.

    Returns
    -------
    pandas.DataFrame
        One row for each arm and rate of ``others`` that ``usual`` has as well, by name: ``arm``, ``rate``,
        ``usual_rate``, ``perplexity`` and ``usual_perplexity`` (on the test windows), ``recalled`` and
        ``usual_recalled`` (nats that a passage is cheaper the second time; NaN where no trial says so), ``seeds`` and
        ``usual_seeds``, and the columns of `newllm.analysis.differences.compare_pairs`, of the other rate from the
        usual one.

    Raises
    ------
    ParameterError
        Where ``usual`` holds several rates, or the two differ in more than rates.
    """
    usual_rates = {given["matrix_lr"] for given in usual["parameters"]}
    if len(usual_rates) > 1:
        raise ParameterError(f"The arms of a table have one rate of the matrices, not {sorted(usual_rates)}.")
    (usual_rate,) = usual_rates
    records = trials_once(pd.concat([others, usual], ignore_index=True))
    budgets = budgets_of(records)
    mixed = [arm for arm, of_arm in budgets.groupby(records["arm"]) if of_arm.nunique() > 1]
    if mixed:
        raise ParameterError(f"{', '.join(mixed)} was trained with several budgets: rates are compared within one.")
    trained = [(arm, given["matrix_lr"]) for arm, given in zip(records["arm"], records["parameters"], strict=True)]
    named = records.assign(
        arm=[_at(arm, rate) for arm, rate in trained], recalled=records.get("repeated_passage_gain", math.nan)
    )
    asked = sorted({(arm, rate) for arm, rate in trained if rate != usual_rate and arm in set(usual["arm"])})
    found = compare_pairs(losses_by_arm(named), [(_at(arm, rate), _at(arm, usual_rate)) for arm, rate in asked])
    summary = named.groupby("arm").agg(
        perplexity=("perplexity", "mean"), recalled=("recalled", "mean"), seeds=("seed", "nunique")
    )
    return pd.DataFrame(
        [
            {"arm": arm, "rate": rate, "usual_rate": usual_rate}
            | summary.loc[_at(arm, rate)].to_dict()
            | summary.loc[_at(arm, usual_rate)].add_prefix("usual_").to_dict()
            | difference
            for (arm, rate), difference in zip(asked, found, strict=True)
        ]
    )


def _at(arm: str, rate: float) -> str:
    return f"{arm} at {rate:g}"
