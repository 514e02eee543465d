"""What was trained alike: the budget of a record, each trial once, and a row of its own for each budget of an arm."""

import json
from collections.abc import Sequence
from typing import Any

import pandas as pd

from newllm.analysis.lenders import embedding_source_in, lender_in
from newllm.analysis.rows import SURROUNDINGS, name_by_settings
from newllm.config.groups import BUDGET, LEARNING_RATES
from newllm.experiments.scoring import is_pretrained
from newllm.models.registry import BASELINE

# Every arm may have the rates that suit it: that is no larger budget.
UNEQUAL = tuple(name for name in BUDGET if name not in LEARNING_RATES)


def budget_of(record: pd.Series) -> str:
    """Return what rows must have in common to be compared; beside its own an arm may have the training of a lender."""
    return json.dumps(_budget(record), default=str)


def budgets_of(records: pd.DataFrame) -> pd.Series:
    """Return the `budget_of` each record, by the index of the records."""
    return pd.Series([budget_of(record) for _, record in records.iterrows()], index=records.index, dtype=object)


def _budget(record: pd.Series) -> dict[str, Any]:
    given = record.get("parameters", {})
    return {name: given.get(name) for name in UNEQUAL} | {
        "healing_tokens": given.get("healing_tokens", 0),
        "lender": lender_in(record),
        "embedding_source": embedding_source_in(record),
        "elsewhere": is_pretrained(record["arm"]),
    }


def trials_once(records: pd.DataFrame, by: Sequence[str] = ()) -> pd.DataFrame:
    """Keep one record of each trial: equal parameters may have been found in two folders, which are no two seeds.

    Parameters
    ----------
    records
        Rows of `newllm.experiments.comparison.compare`.
    by
        Columns whose values tell trials of one arm apart, beside their parameters.

    Returns
    -------
    pandas.DataFrame
        The records in their order, of each ``by``, arm, seed and parameters the one that was finished last.
    """
    if records.empty:
        return records
    trials = records[[*by, "arm", "seed"]].reset_index(drop=True)
    trials["settings"] = [json.dumps(settings, default=str) for settings in _settings(records)]
    trials["finished_at"] = list(records["finished_at"]) if "finished_at" in records else 0
    trials["folder"] = [str(folder) for folder in records["folder"]] if "folder" in records else ""
    newest_first = trials.sort_values(["finished_at", "folder"], ascending=[False, True], kind="stable")
    once = newest_first.drop_duplicates([*by, "arm", "seed", "settings"])
    return records.iloc[sorted(once.index)]


def rows_apart(records: pd.DataFrame, baseline: str | None = None, by: Sequence[str] = ()) -> pd.DataFrame:
    """Take each trial once, and name an arm that was trained in several ways by what tells them apart.

    No row of a table mixes several settings of one arm: ``mla (epochs 3)`` stands beside ``mla``.

    Parameters
    ----------
    records
        Rows of `newllm.experiments.comparison.compare`.
    baseline
        The arm whose budget leaves the others their plain names; `newllm.models.registry.BASELINE` where omitted.
    by
        Columns whose values tell rows of one arm apart.

    Returns
    -------
    pandas.DataFrame
        The records that `trials_once` keeps, in their order and with the names of their rows as ``arm``. The plain name
        is for the budget of the baseline, where the arm has that, or else for what `newllm.analysis.rows` calls usual.
    """
    if records.empty:
        return records
    once = trials_once(records, by).reset_index(drop=True)
    base = baseline or BASELINE
    groups = once.groupby(list(by), sort=False, dropna=False) if by else [((), once)]
    names = pd.concat([pd.Series(_names(group, base), index=group.index, dtype=object) for _, group in groups])
    return once.assign(arm=names)


def at_plain_names(records: pd.DataFrame) -> pd.DataFrame:
    """Keep of each arm what `rows_apart` leaves its plain name: the others are rows that no arm's name finds.

    Parameters
    ----------
    records
        Rows of `newllm.experiments.comparison.compare`.
    """
    named = rows_apart(records)
    return named[named["arm"].isin(set(records["arm"]))]


def _names(records: pd.DataFrame, baseline: str) -> list[str]:
    settings = _settings(records)
    names, budgets = name_by_settings(records, settings), list(budgets_of(records))
    of_baseline = {budget for name, budget in zip(names, budgets, strict=True) if name == baseline}
    return name_by_settings(records, settings, [budget in of_baseline for budget in budgets]) if of_baseline else names


def _settings(records: pd.DataFrame) -> list[dict[str, Any]]:
    """Return of each record all that it was trained with: its budget, and whatever else decides its numbers."""
    return [
        {name: value for name, value in record.get("parameters", {}).items() if name not in SURROUNDINGS}
        | _budget(record)
        for _, record in records.iterrows()
    ]
