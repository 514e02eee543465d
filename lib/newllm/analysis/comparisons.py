"""What is asked of a finished comparison: arms beside controls of equal cache, full attention, and random ones."""

import math
from collections.abc import Callable, Sequence
from dataclasses import replace

import pandas as pd

from newllm.analysis.differences import compare_pairs, losses_by_arm, no_difference
from newllm.analysis.encodings import full_attention_of
from newllm.analysis.summary import summarize_arms
from newllm.analysis.tables import INTERVAL_ENDS
from newllm.analysis.trained_alike import at_plain_names, budgets_of
from newllm.experiments.arms import UNTREATED, Arm
from newllm.experiments.benchmark_study import BENCHMARK_COLUMNS
from newllm.models.registry import controls


def against_full_attention(records: pd.DataFrame) -> pd.DataFrame:
    """Set every arm beside full attention of its own position encoding and number of heads: what its cache costs alone.

    Parameters
    ----------
    records
        Rows of `newllm.experiments.comparison.compare`.

    Returns
    -------
    pandas.DataFrame
        One row an arm that has such a one among the records, the widest cache first: ``kv_bytes_per_token``, ``arm``,
        ``perplexity``, ``seeds``, ``full_attention`` and its ``full_perplexity``, and the columns of
        `newllm.analysis.differences.compare_pairs`, whose verdicts pay for all rows of one budget.
    """
    table = _within_budgets(records, _against_full_attention)
    return table.sort_values(["kv_bytes_per_token", "perplexity"], ascending=[False, True], ignore_index=True)


def _against_full_attention(records: pd.DataFrame) -> pd.DataFrame:
    pairs = full_attention_of(records["arm"].unique())
    table = _beside(records, list(pairs.items()), "full_attention", "full_perplexity")
    return table.assign(seeds=table["arm"].map(records.groupby("arm").size()))


def against_controls(records: pd.DataFrame) -> pd.DataFrame:
    """Set every arm beside the controls that keep as many bytes a token: a saving is claimed only beside them.

    Parameters
    ----------
    records
        Rows of `newllm.experiments.comparison.compare`.

    Returns
    -------
    pandas.DataFrame
        One row an arm and control of equal bytes, widest cache first: ``kv_bytes_per_token``, ``arm``, ``control``,
        both perplexities, and the columns of `newllm.analysis.differences.compare_pairs`, the difference as
        ``control_difference`` (negative where the arm is better than the control). Arms without a control are left out.
    """
    table = _within_budgets(records, _against_controls)
    table = table.rename(columns={f"difference{end}": f"control_difference{end}" for end in ("", "_low", "_high")})
    return table.sort_values("kv_bytes_per_token", ascending=False, kind="stable", ignore_index=True)


def _against_controls(records: pd.DataFrame) -> pd.DataFrame:
    arms = records.drop_duplicates("arm")
    is_control = arms["method"].isin(controls())
    pairs = [
        (row["arm"], beside["arm"])
        for _, row in arms[~is_control].iterrows()
        for _, beside in arms[is_control].iterrows()
        if beside["kv_bytes_per_token"] == row["kv_bytes_per_token"]
    ]
    return _beside(records, pairs, "control", "control_perplexity")


def against_random(records: pd.DataFrame) -> pd.DataFrame:
    """Set every treatment of a recurrence beside the same recurrence left as it was initialised.

    Parameters
    ----------
    records
        Rows of `newllm.experiments.comparison.compare`.

    Returns
    -------
    pandas.DataFrame
        One row a treatment whose untreated twin is among the records, in their order: ``kv_bytes_per_token``, ``arm``,
        ``perplexity``, ``random`` (the twin) and its ``random_perplexity``, and the columns of
        `newllm.analysis.differences.compare_pairs`, whose verdicts pay for all rows of one budget.
    """
    return _within_budgets(records, _against_random)


def _against_random(records: pd.DataFrame) -> pd.DataFrame:
    trained = [Arm.parse(name) for name in records["arm"].unique()]
    twins = {arm.name: replace(arm, projection=UNTREATED).name for arm in trained if arm.projection is not None}
    names = {arm.name for arm in trained}
    pairs = [(name, twin) for name, twin in twins.items() if twin in names - {name}]
    return _beside(records, pairs, UNTREATED, f"{UNTREATED}_perplexity")


def _within_budgets(records: pd.DataFrame, compare: Callable[[pd.DataFrame], pd.DataFrame]) -> pd.DataFrame:
    """Compare what was trained alike, budget by budget: verdicts pay for the rows of their own.

    Each trial counts once, and an arm that was trained at several rates is taken at its usual ones.
    """
    tables = [compare(at_plain_names(alike)) for _, alike in records.groupby(budgets_of(records), sort=False)]
    return pd.concat([table for table in tables if len(table)] or tables[:1], ignore_index=True)


def _beside(records: pd.DataFrame, pairs: Sequence[tuple[str, str]], other: str, its_perplexity: str) -> pd.DataFrame:
    """Compare each arm with what it stands beside, named in the column ``other``; without a pair there is no row."""
    summary = summarize_arms(records).set_index("arm")
    bytes_kept, perplexities = (summary[name].to_dict() for name in ("kv_bytes_per_token", "perplexity"))
    rows = [
        {
            "kv_bytes_per_token": bytes_kept[arm],
            "arm": arm,
            other: base,
            "perplexity": perplexities[arm],
            its_perplexity: perplexities[base],
            **no_difference(),
            **found,
        }
        for (arm, base), found in zip(pairs, compare_pairs(losses_by_arm(records), pairs), strict=True)
    ]
    columns = ["kv_bytes_per_token", "arm", other, "perplexity", its_perplexity]
    return pd.DataFrame(rows) if rows else pd.DataFrame(columns=columns)


def quality_and_memory(summary: pd.DataFrame, baseline: str | None) -> pd.DataFrame:
    """Set what is kept beside what it is worth, best first.

    Parameters
    ----------
    summary
        As `newllm.analysis.summary.summarize_arms` makes it; n-gram models, which keep no cache, are left out.
    baseline
        The arm whose bytes are the whole; None where there is none.

    Returns
    -------
    pandas.DataFrame
        Columns ``arm``, ``kv_share`` of the baseline's bytes a token, ``perplexity``, ``accuracy``, and those of
        benchmarks that were asked, with their intervals.
    """
    models = summary[summary["kv_bytes_per_token"].notna()]
    whole = models.loc[models["arm"] == baseline, "kv_bytes_per_token"]
    share = models["kv_bytes_per_token"] / (whole.iloc[0] if len(whole) else math.nan)
    measures = ("perplexity", "accuracy", *BENCHMARK_COLUMNS)
    names = [f"{measure}{end}" for measure in measures for end in ("", *INTERVAL_ENDS)]
    table = models[["arm", *(name for name in names if name in models)]]
    table.insert(1, "kv_share", share)
    return table.reset_index(drop=True)
