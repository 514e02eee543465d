"""What a comparison shows, in a few plain sentences that are computed from its summary."""

from collections.abc import Hashable, Mapping, Sequence
from typing import Any

import pandas as pd

from newllm.analysis.differences import LEAST_SEED_FREEDOM
from newllm.evaluation.verdicts import BETTER, EQUIVALENT, OPEN, WORSE
from newllm.figures.arm_words import arm_in_words

MOST_NAMED = 3
VERDICTS = (BETTER, EQUIVALENT, OPEN, WORSE)
# What an interval says that is of documents alone.
LOSSES = {BETTER: "lower loss", OPEN: "cannot be told", WORSE: "higher loss"}

Row = dict[Hashable, Any]


def findings(summary: pd.DataFrame, baseline: str | None) -> list[str]:
    """Say which arm is best, which are better and worse than the baseline, and how small a cache may be.

    Parameters
    ----------
    summary
        As `newllm.analysis.summary.summarize_arms` makes it; rows of another budget are not spoken of.
    baseline
        The arm that differences were taken from; None where there is none.

    Returns
    -------
    list of str
        Two to four sentences of Markdown, arms in words; none where no arm was trained.
    """
    alike = summary[summary["equal_budget"]]
    arms = alike.dropna(subset=["kv_bytes_per_token"]).sort_values("perplexity", kind="stable").to_dict("records")
    if not arms:
        return []
    base = next((row for row in arms if row["arm"] == baseline), None)
    counts = alike[alike["kv_bytes_per_token"].isna()].sort_values("perplexity").to_dict("records")
    behind = [row for row in arms if counts and row["perplexity"] > counts[0]["perplexity"]]
    said = [f"Lowest loss: {_named(arms[0])} (perplexity {arms[0]['perplexity']:.1f}), with {_kept(arms[0], base)}."]
    compared = [row for row in arms if base is not None and not pd.isna(row["difference"])]
    if base is None or not compared:
        said.append("There is no other arm beside a baseline, so none is called better or worse.")
    elif all(pd.isna(row["difference_low"]) for row in compared):
        said.append(
            "The test windows are of one document, so that no difference has an interval, and no arm is called better "
            "or worse."
        )
    elif seeds_can_tell(summary):
        groups = {verdict: [row for row in compared if row["verdict"] == verdict] for verdict in VERDICTS}
        said.append(f"Beside {_named(base)}, {_each(groups, {verdict: verdict for verdict in VERDICTS})}.")
        said += _smallest(base, groups, behind, {verdict: verdict for verdict in VERDICTS})
    else:
        groups = _by_interval(compared)
        seeds = "one seed" if max(row["seeds"] for row in arms) == 1 else "so few seeds"
        said.append(
            f"Beside {_named(base)}, on these documents, {_each(groups, LOSSES)}. With {seeds} this is no verdict: "
            "nobody knows what another seed would find."
        )
        said += _smallest(base, groups, behind, LOSSES)
    return said + _said_of_counts(counts, behind)


def seeds_can_tell(summary: pd.DataFrame) -> bool:
    """Tell whether a verdict was given, or seeds are enough for one: two arms with two of them, or one with three.

    Parameters
    ----------
    summary
        As `newllm.analysis.summary.summarize_arms` makes it, or a part of its rows, whose verdicts rest on all.
    """
    if "verdict" in summary and summary["verdict"].isin([BETTER, WORSE, EQUIVALENT]).any():
        return True
    alike = summary[summary["equal_budget"]] if "equal_budget" in summary else summary
    return bool((alike["seeds"].dropna() - 1).sum() >= LEAST_SEED_FREEDOM)


def _by_interval(rows: Sequence[Row]) -> dict[str, list[Row]]:
    """Sort rows by where their interval lies."""
    groups: dict[str, list[Row]] = {BETTER: [], OPEN: [], WORSE: []}
    for row in rows:
        below, above = row["difference_high"] < 0, row["difference_low"] > 0
        groups[BETTER if below else WORSE if above else OPEN].append(row)
    return groups


def _each(groups: Mapping[str, Sequence[Row]], words: Mapping[str, str]) -> str:
    """Say the rows of each group."""
    return "; ".join(f"{words[group]}: {_counted(group, rows)}" for group, rows in groups.items() if rows)


def _smallest(
    base: Row, groups: Mapping[str, Sequence[Row]], behind: Sequence[Row], words: Mapping[str, str]
) -> list[str]:
    """Say the smallest cache with which an arm is not found worse than the baseline, and how its verdict reads.

    Of the arms with that cache the best is named. One that counts of the same text beat has learned too little for its
    cache to be judged, and where the baseline itself is behind them, no cache is.
    """
    if base in behind:
        return []
    smaller = [
        (row, group)
        for group, rows in groups.items()
        for row in rows
        if row["kv_bytes_per_token"] < base["kv_bytes_per_token"]
    ]
    if not smaller:
        return [f"No arm here keeps less than {_named(base)}."]
    judged = [(row, group) for row, group in smaller if row not in behind]
    if not judged:
        return []
    good = [(row, group) for row, group in judged if group != WORSE]
    if not good:
        return [f"No arm with a smaller cache than {_named(base)} was found that is not worse."]
    row, group = min(good, key=lambda one: (one[0]["kv_bytes_per_token"], one[0]["perplexity"]))
    proof = ", which is no proof that it is as good" if group == OPEN else ""
    return [
        f"The smallest cache that is not found worse than {_named(base)}: {_kept(row, base)}, by {_named(row)} "
        f"({words[group]}{proof})."
    ]


def _said_of_counts(counts: Sequence[Row], behind: Sequence[Row]) -> list[str]:
    """Say which arms have learned less than a table of counts holds."""
    if not behind:
        return []
    best = f"{counts[0]['arm']}, {counts[0]['perplexity']:.1f}"
    return [
        f"Of higher perplexity than counts of the same text ({best}), so that they say nothing about memory: "
        f"{_counted(WORSE, behind)}."
    ]


def _counted(group: str, rows: Sequence[Row]) -> str:
    """Say how many rows there are, and name those that are furthest off; rows are the best first."""
    ordered = rows[::-1] if group == WORSE else rows
    named = ", ".join(map(_named, ordered[:MOST_NAMED]))
    return f"{len(rows)} ({named}{', ...' if len(rows) > MOST_NAMED else ''})"


def _named(row: Row) -> str:
    return f"`{arm_in_words(str(row['arm']))}`"


def _kept(row: Row, base: Row | None) -> str:
    """Say what an arm keeps of a token."""
    kept = row["kv_bytes_per_token"]
    if kept == 0:
        return "a state of fixed size"
    if base is None or row is base or not base["kv_bytes_per_token"]:
        return f"{kept:,.0f} bytes a token"
    share = kept / base["kv_bytes_per_token"]
    of_base = "as many as" if share == 1 else f"{share:.1%} of those of"
    return f"{kept:,.0f} bytes a token, {of_base} {_named(base)}"
