"""Which arms of a comparison stand for all of them where there is no room for more."""

from collections.abc import Sequence

import pandas as pd

from newllm.figures.lines import MOST_TOLD
from newllm.figures.pareto import on_front


def telling_arms(summary: pd.DataFrame, baseline: str | None, most: int = MOST_TOLD) -> list[str]:
    """Choose arms for a picture of lines: the baseline, those that nothing beats, and others down to the worst.

    Parameters
    ----------
    summary
        As `newllm.analysis.summary.summarize_arms` makes it; rows that keep no cache, such as n-grams, are left out.
    baseline
        The arm that comes first; None where there is none.
    most
        How many arms, at most; all of them where there are no more.

    Returns
    -------
    list of str
        The baseline, then the others by their loss, the lowest first. Those that nothing beats on both bytes and loss
        are among them, or some of these from the best to the smallest where there are too many; the rest are evenly
        spaced in the order of all other arms' losses, and the worst is one of them.
    """
    arms = summary.dropna(subset=["kv_bytes_per_token"]).sort_values("perplexity", kind="stable")
    by_loss = list(arms["arm"])
    first = [arm for arm in by_loss if arm == baseline]
    # The worst keeps its place, however many nothing beats.
    front = [
        arm for arm in arms.loc[on_front(arms["kv_bytes_per_token"], arms["perplexity"]), "arm"] if arm != baseline
    ]
    chosen = first + _from_end_to_end(front, most - len(first) - 1)
    others = [arm for arm in by_loss if arm not in chosen]
    chosen += _spaced(others[::-1], most - len(chosen))
    return first + [arm for arm in by_loss if arm in chosen and arm != baseline]


def _from_end_to_end(items: Sequence[str], most: int) -> list[str]:
    """Choose evenly spaced items, the first and the last among them."""
    if len(items) <= most:
        return list(items)
    return [items[place * (len(items) - 1) // max(most - 1, 1)] for place in range(most)]


def _spaced(items: Sequence[str], most: int) -> list[str]:
    """Choose evenly spaced items, the first among them; behind the last lies what was chosen otherwise."""
    if len(items) <= most:
        return list(items)
    return [items[place * len(items) // most] for place in range(most)]


def leading_arms(summary: pd.DataFrame, baseline: str | None, most: int = MOST_TOLD) -> list[str]:
    """Choose arms for a picture of what the best ones do: the baseline, then those of the lowest loss.

    Parameters
    ----------
    summary, baseline, most
        As for `telling_arms`.
    """
    arms = summary.dropna(subset=["kv_bytes_per_token"]).sort_values("perplexity", kind="stable")
    by_loss = [str(arm) for arm in arms["arm"]]
    first = [arm for arm in by_loss if arm == baseline]
    return [*first, *(arm for arm in by_loss if arm != baseline)][:most]


def few_arms(summary: pd.DataFrame, baseline: str | None) -> list[str]:
    """Choose up to three arms: the baseline, the one of the lowest loss, and the best of those that keep least.

    Parameters
    ----------
    summary, baseline
        As for `telling_arms`.
    """
    arms = summary.dropna(subset=["kv_bytes_per_token"]).sort_values("perplexity", kind="stable")
    if arms.empty:
        return []
    least = arms[arms["kv_bytes_per_token"] == arms["kv_bytes_per_token"].min()]
    first = [baseline] if baseline in set(arms["arm"]) else []
    return list(dict.fromkeys([*map(str, first), arms["arm"].iloc[0], least["arm"].iloc[0]]))
