"""What needles and cut contexts show, in a few plain sentences that are computed from their tables."""

import pandas as pd

from newllm.analysis.recall import CANNOT_TELL
from newllm.evaluation.needle import solves
from newllm.evaluation.verdicts import EQUIVALENCE_MARGIN
from newllm.figures.arm_words import arm_in_words
from newllm.wording import with_interval


def needle_findings(needles: pd.DataFrame, baseline: str) -> list[str]:
    """Say where the baseline finds the needle; where it does not, nothing can be said of any other arm.

    Parameters
    ----------
    needles
        As `newllm.experiments.recall_study.find_needles` makes it.
    baseline
        The arm that remembers everything.

    Returns
    -------
    list of str
        Sentences of Markdown, arms in words.
    """
    if needles.empty:
        return ["No model was asked for a needle."]
    own = needles[needles["arm"] == baseline]
    if own.empty:
        return [f"`{baseline}` was not asked for a needle, so nobody knows whether it can be found: {CANNOT_TELL}."]
    found = own[pd.Series([solves(row) for _, row in own.iterrows()], index=own.index)]
    best = own.sort_values("margin", ascending=False).iloc[0]
    measured = (
        f"at best it likes the right name by {with_interval(best, 'margin')} nats, and chooses it in "
        f"{best['right']:.1%} of {best['texts']:,.0f} texts"
    )
    if found.empty:
        return [f"Needle: {CANNOT_TELL}. `{baseline}` finds it in none of {len(own)} settings; {measured}."]
    places = ", ".join(f"said {_often(row['times'])}, {row['distance']:,} tokens before" for _, row in found.iterrows())
    said = [f"`{baseline}` finds the needle in {len(found)} of {len(own)} settings ({places}); {measured}."]
    keys = ["times", "distance"]
    told = needles[needles["arm"] != baseline].merge(found[keys], on=keys)
    for arm, rows in told.groupby("arm", sort=False):
        able = sum(solves(row) for _, row in rows.iterrows())
        said.append(f"`{arm_in_words(str(arm))}` finds it in {able} of these {len(found)}.")
    return said


def _often(times: int) -> str:
    return "once" if times == 1 else f"{times} times"


def truncation_findings(truncation: pd.DataFrame) -> list[str]:
    """Say of each arm what a longer past is worth, and how many last tokens are as good as all.

    Parameters
    ----------
    truncation
        As `newllm.experiments.recall_study.cut_contexts` makes it.

    Returns
    -------
    list of str
        Sentences of Markdown, arms in words.
    """
    said = []
    for arm, rows in truncation.groupby("arm", sort=False):
        cut = rows[rows["lost"].notna()]
        worth = ", ".join(f"{row['context']:,.0f}: {with_interval(row, 'lost')}" for _, row in cut.iterrows())
        enough = cut[(cut["lost_low"] > -EQUIVALENCE_MARGIN) & (cut["lost_high"] < EQUIVALENCE_MARGIN)]
        last = (
            f"its last {enough['context'].min():,.0f} tokens are as good as all, within {EQUIVALENCE_MARGIN:g} nats"
            if len(enough)
            else f"none of these is shown to be as good as all within {EQUIVALENCE_MARGIN:g} nats"
        )
        said.append(f"`{arm_in_words(str(arm))}` loses nats a token when it sees so many last tokens: {worth}; {last}.")
    return said or ["No model was read with its context cut short."]
