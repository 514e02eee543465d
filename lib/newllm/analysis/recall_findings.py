"""What a comparison shows of recall, in a few plain sentences that are computed from its records."""

import math
from collections.abc import Sequence
from typing import Any

import pandas as pd

from newllm.analysis.recall import GAIN, baseline_gains, recall_by_arm, recall_part
from newllm.evaluation.verdicts import EQUIVALENCE_MARGIN, OPEN
from newllm.figures.arm_words import arm_in_words

BEST = 3
MORE, LESS = "more", "less"


def recall_findings(records: pd.DataFrame, summary: pd.DataFrame, baseline: str | None) -> list[str]:
    """Say whether recall can be measured, who gains nothing from it, and whether the best arms gain more.

    Parameters
    ----------
    records
        Rows of `newllm.experiments.comparison.compare`.
    summary
        What `newllm.analysis.summary.summarize_arms` makes of them.
    baseline
        The arm that remembers everything; None where it is not among them.

    Returns
    -------
    list of str
        Up to three sentences of Markdown, arms in words.
    """
    return [*_able(records, baseline), *_without_gain(records), *_of_the_best(records, summary, baseline)]


def _able(records: pd.DataFrame, baseline: str | None) -> list[str]:
    """Say by how many measures the baseline itself gains."""
    if baseline is None:
        return ["Without the baseline among the arms, nobody knows whether these measures can tell anything."]
    gains = baseline_gains(records, baseline)
    able = gains[gains["gain_low"] > 0]
    unable = ", ".join(gains.loc[~gains.index.isin(able.index), "measure"])
    return [
        f"`{baseline}` gains by {len(able)} of {len(gains)} measures"
        + (f"; nothing can be said by the others: {unable}." if unable else ", so all of them can tell.")
    ]


def _without_gain(records: pd.DataFrame) -> list[str]:
    """Say which arms gain nothing from a passage at the largest distance, or as good as nothing."""
    passages = recall_part(records, "passages")
    if passages.empty:
        return []
    distance = passages["distance"].max()
    # Intervals over passages, averaged over seeds.
    ends = passages[passages["distance"] == distance].groupby("arm", sort=False)[["gain_low", "gain_high"]].mean()
    nothing = ends.index[ends["gain_high"] < EQUIVALENCE_MARGIN]
    untold = ends.index[(ends["gain_low"] <= 0) & (ends["gain_high"] >= EQUIVALENCE_MARGIN)]
    read = f"From a passage that was read {distance:,} tokens before"
    said = [f"less than {EQUIVALENCE_MARGIN:g} nats are gained by {_named(nothing) if len(nothing) else 'no arm'}"]
    if len(untold):
        said.append(f"of {_named(untold)} no gain can be told")
    told = len(ends) - len(nothing) - len(untold)
    return [f"{read}, {', and '.join(said)}; a gain is told of {told} of {len(ends)}."]


def _of_the_best(records: pd.DataFrame, summary: pd.DataFrame, baseline: str | None) -> list[str]:
    """Set what the arms of lowest loss gain from a passage beside what the baseline gains."""
    recall = recall_by_arm(records, baseline)
    if GAIN not in recall:
        return []
    gains = {row["arm"]: row for row in recall.to_dict("records")}
    arms = summary[summary["equal_budget"]].sort_values("perplexity", kind="stable")["arm"]
    best = [arm for arm in arms if arm in gains and arm != baseline][:BEST]
    if baseline not in gains or not best:
        return []
    base = gains[baseline]
    found = {arm: _beside(gains[arm], base) for arm in best}
    more = sum(verdict == MORE for verdict in found.values()) or "none"
    said = ", ".join(f"`{arm_in_words(str(arm))}` {gains[arm][GAIN]:.3f} ({found[arm]})" for arm in best)
    has_seeds = not math.isnan(base[f"{GAIN}_low"])
    return [
        f"More from a passage said twice than `{baseline}` ({base[GAIN]:.3f} nats a token) is gained by {more} of "
        f"{len(best)} {'arm' if len(best) == 1 else 'arms'} of lowest loss: {said}."
        + ("" if has_seeds else " With one seed this is not told from chance.")
    ]


def _beside(row: dict[Any, Any], base: dict[Any, Any]) -> str:
    """Say whether a gain is more or less than the baseline's; where seeds tell no interval, which is larger."""
    half = math.hypot(*((each[f"{GAIN}_high"] - each[f"{GAIN}_low"]) / 2 for each in (row, base)))
    difference, reach = row[GAIN] - base[GAIN], 0.0 if math.isnan(half) else half
    return MORE if difference > reach else LESS if difference < -reach else OPEN


def _named(arms: Sequence[str] | pd.Index) -> str:
    return ", ".join(f"`{arm_in_words(str(arm))}`" for arm in arms)
