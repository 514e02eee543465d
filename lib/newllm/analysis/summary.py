"""What finished trials left: their histories, and what all seeds of an arm say together."""

from collections.abc import Hashable, Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from newllm.analysis.differences import OTHER_BUDGET, ArmLosses, compare_pairs, no_difference, read_losses
from newllm.analysis.lenders import lender_in
from newllm.analysis.trained_alike import budget_of, rows_apart
from newllm.analysis.trial_files import rows_of_trials
from newllm.analysis.wording import budget_text
from newllm.evaluation.seed_intervals import seed_intervals
from newllm.experiments.benchmark_study import BENCHMARK_COLUMNS
from newllm.experiments.floor import Floor, floors_of
from newllm.experiments.scoring import EVALUATION_FILE, HISTORY_FILE
from newllm.figures.arm_words import arm_in_words
from newllm.models.registry import BASELINE
from newllm.runs.record import read_record

SAME_OVER_SEEDS = ("parameter_count", "kv_bytes_per_token", "kv_bytes", "block_width")
MEASURES = (
    *("perplexity", "bits_per_byte", "accuracy", "stream_perplexity", "effective_rank", "convergence_rate"),
    *BENCHMARK_COLUMNS,
)
# What a seed changes by a share: it makes a perplexity of 60 vary by more than one of 40.
RATIOS = ("perplexity", "stream_perplexity", "lambada_perplexity", "wikitext_word_perplexity")

# Digits that tell the data of counts apart, where those of several stand in one table.
FINGERPRINT_SHOWN = 8


def baseline_among(records: pd.DataFrame) -> str | None:
    """Return the baseline where its name is among the arms; None elsewhere, as then nothing is compared with it."""
    return BASELINE if BASELINE in set(records["arm"]) else None


def summarize_arms(records: pd.DataFrame, baseline: str | None = None, by: Sequence[str] = ()) -> pd.DataFrame:
    """Compare arms: means with their intervals over seeds, and differences from a baseline on the same windows.

    Parameters
    ----------
    records
        Rows of `newllm.experiments.comparison.compare`.
    baseline
        Name of the arm to take differences from; None leaves them out.
    by
        Columns whose values tell rows of one arm apart; an arm is compared with the baseline of the same values.

    Returns
    -------
    pandas.DataFrame
        One row an arm, each trial counted once, and one more for each other budget that an arm was trained with, as
        `newllm.analysis.trained_alike.rows_apart` names them; and one an n-gram model of the floor of the baseline's
        data or, where there is no baseline, of all data, whose seeds, bytes and the like do not apply (NaN). The
        columns ``by``, ``arm``, ``seeds``, ``parameter_count``, ``kv_bytes_per_token``, ``kv_bytes`` of a window,
        ``block_width``, ``budget`` in words; for each measure that all its seeds have, the mean, ``_low`` and ``_high``
        (95 %, by `newllm.evaluation.seed_intervals` of all arms of one budget); with a baseline, the columns of
        `newllm.analysis.differences.compare_pairs`. ``equal_budget`` tells rows that were trained as the baseline was
        (the text, the passes, the schedule; its learning rate is each arm's own) from the others, which stand in a
        block below and have no difference; ``trained_otherwise`` tells those that were trained after a model that lends
        its embedding. Within a block the lowest perplexity is first.
    """
    rows: dict[tuple[Any, ...], dict[str, Any]] = {}
    losses: dict[Hashable, ArmLosses | None] = {}
    budgets: dict[tuple[Any, ...], str] = {}
    measured: dict[tuple[Any, ...], dict[str, list[float]]] = {}
    data: dict[tuple[Any, ...], Any] = {}
    records = rows_apart(records, baseline, by)
    for key, group in records.groupby([*by, "arm"], sort=False, dropna=False):
        *values, arm = key
        row: dict[str, Any] = dict(zip(by, values, strict=True)) | {"arm": arm, "seeds": len(group)}
        row |= {name: group[name].iloc[0] for name in SAME_OVER_SEEDS if name in group}
        if "parameters" in group:
            row["budget"] = budget_text(group["parameters"].iloc[0])
        row["trained_otherwise"] = bool(lender_in(group.iloc[0]))
        rows[key], losses[key], budgets[key] = row, read_losses(group), budget_of(group.iloc[0])
        given = group.iloc[0].get("parameters", {})
        data[key] = (given.get("data"), given.get("seq_length"))
        measured[key] = {measure: list(group[measure]) for measure in MEASURES if _is_measured(group, measure)}
    for key, columns in _means(measured, budgets).items():
        rows[key] |= columns
    pairs = _pairs(list(rows), baseline)
    for floor in floors_of(records):
        beside = [key for key in data if data[key] == (floor.data, floor.seq_length)]
        bases = [key for key in beside if key[-1] == baseline]
        if not bases and any((*key[:-1], baseline) in data for key in beside):
            # Counts of another text than the baseline's say nothing beside it.
            continue
        first = min(bases or beside, key=lambda key: rows[key]["trained_otherwise"])
        for row in _floor_rows(floor, beside, by, rows):
            key = (*(row[name] for name in by), row["arm"])
            rows[key], losses[key] = row | {"trained_otherwise": False}, floor_losses(floor, row["arm"])
            if len(bases) == 1:
                pairs[key] = bases[0]
            budgets[key] = budgets[first]
    for key, row in rows.items():
        row["equal_budget"] = budgets.get(key) == budgets.get(
            pairs.get(key) or _first_beside(key, baseline, rows, budgets)
        )
    named = [key for key in pairs if rows[key]["equal_budget"]]
    # How much a seed changes is pooled over what was trained alike.
    alike: dict[Hashable, ArmLosses | None] = {key: losses[key] for key, row in rows.items() if row["equal_budget"]}
    for key, found in zip(named, compare_pairs(alike, [(key, pairs[key]) for key in named]), strict=True):
        rows[key] |= found
    table = pd.DataFrame(rows.values())
    if baseline is not None:
        table = table.reindex(columns=list(dict.fromkeys([*table, *no_difference()])))
        table["verdict"] = table["verdict"].fillna("").where(table["equal_budget"], OTHER_BUDGET)
    return table.sort_values(["equal_budget", "perplexity"], ascending=[False, True], kind="stable", ignore_index=True)


def _is_measured(records: pd.DataFrame, measure: str) -> bool:
    return measure in records and bool(np.isfinite(records[measure].astype(float)).all())


def _means(
    measured: Mapping[tuple[Any, ...], Mapping[str, Sequence[float]]], budgets: Mapping[tuple[Any, ...], str]
) -> dict[tuple[Any, ...], dict[str, float]]:
    """Average the measures of each row over its seeds, with intervals; seeds are pooled over rows of one budget."""
    columns: dict[tuple[Any, ...], dict[str, float]] = {key: {} for key in measured}
    for budget in dict.fromkeys(budgets.values()):
        alike = {key: values for key, values in measured.items() if budgets[key] == budget}
        for measure in MEASURES:
            by_row = {key: values[measure] for key, values in alike.items() if measure in values}
            for key, interval in seed_intervals(by_row, is_ratio=measure in RATIOS).items():
                columns[key] |= interval.columns(measure)
    return columns


def _pairs(keys: Sequence[tuple[Any, ...]], baseline: str | None) -> dict[tuple[Any, ...], tuple[Any, ...]]:
    """Pair each arm with the baseline of the same values, where there is one."""
    beside = {key: (*key[:-1], baseline) for key in keys if key[-1] != baseline}
    return {key: base for key, base in beside.items() if base in keys}


def _first_beside(
    key: tuple[Any, ...],
    baseline: str | None,
    rows: Mapping[tuple[Any, ...], Mapping[str, Any]],
    budgets: Mapping[tuple[Any, ...], str],
) -> tuple[Any, ...]:
    """Return the key that a row without a baseline of the same values is beside: the first that had no lender."""
    if key[-1] == baseline:
        return key
    beside = [one for one in budgets if one[:-1] == key[:-1]]
    return min(beside, key=lambda one: rows[one]["trained_otherwise"], default=key)


def _floor_rows(
    floor: Floor,
    beside: Sequence[tuple[Any, ...]],
    by: Sequence[str],
    rows: Mapping[tuple[Any, ...], Mapping[str, Any]],
) -> list[dict[str, Any]]:
    """Return the rows of a floor, with the values that all rows of its data have in common.

    Where counts of other data have the name already, that of these says which they are of.
    """
    values = [dict.fromkeys(key[place] for key in beside) for place in range(len(by))]
    shared = {name: next(iter(own)) if len(own) == 1 else None for name, own in zip(by, values, strict=True)}
    found = []
    for row in floor.rows():
        is_taken = (*shared.values(), row["arm"]) in rows
        name = f"{row['arm']} (data {floor.data[:FINGERPRINT_SHOWN]})" if is_taken else row["arm"]
        found.append(shared | row | {"arm": name})
    return found


def floor_losses(floor: Floor, arm: str) -> ArmLosses:
    """Return what an n-gram model of a floor lost on the test windows.

    Parameters
    ----------
    floor
        The counts.
    arm
        The model's name, as the floor's rows have it, or with the data that it is of behind it.
    """
    (losses,) = (score.window_losses for score in floor.scores if arm.partition(" (")[0] == score.arm)
    return ArmLosses({0: np.array(losses)}, np.array(floor.window_groups), has_seeds=False)


def histories(records: pd.DataFrame) -> pd.DataFrame:
    """Read the main training of each record: one row an epoch, with ``arm`` and ``seed``.

    Parameters
    ----------
    records
        Rows of `newllm.experiments.comparison.compare`.
    """
    return rows_of_trials(rows_apart(records), HISTORY_FILE, "main")


def positions(records: pd.DataFrame) -> pd.DataFrame:
    """Read the perplexity by position of each record: one row a band (start, end), with ``arm`` and ``seed``.

    Parameters
    ----------
    records
        Rows of `newllm.experiments.comparison.compare`.
    """
    return rows_of_trials(rows_apart(records), EVALUATION_FILE, "positions")


def continuations(records: pd.DataFrame, characters: int = 160) -> pd.DataFrame:
    """Read how the trials of the first seed go on from each prompt: one row a prompt and arm.

    Parameters
    ----------
    records
        Rows of `newllm.experiments.comparison.compare`.
    characters
        Of each continuation, at most; its lines are joined.

    Returns
    -------
    pandas.DataFrame
        Columns ``prompt``, ``arm`` in words, ``goes_on``; the arms of one prompt one after the other.
    """
    apart = rows_apart(records)
    first = apart[apart["seed"] == apart["seed"].min()]
    rows = [
        {"prompt": each.prompt, "arm": arm_in_words(arm), "goes_on": " ".join(each.text.split())[:characters]}
        for arm, folder in zip(first["arm"], first["folder"], strict=True)
        for each in read_record(folder).continuations
    ]
    table = pd.DataFrame(rows, columns=["prompt", "arm", "goes_on"])
    prompts = list(dict.fromkeys(table["prompt"]))
    return table.sort_values("prompt", key=lambda column: column.map(prompts.index), kind="stable", ignore_index=True)
