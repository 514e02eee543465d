"""How arms know the order of tokens, apart from what they keep: the two things that a comparison of caches mixes."""

from collections.abc import Hashable, Iterable
from dataclasses import replace

import pandas as pd
from transformers import PreTrainedConfig

from newllm.config.groups import ModelParameters
from newllm.experiments.arms import Arm, ArmError
from newllm.figures.arm_words import ENCODINGS, NO_ENCODING, ONE_SLOPE, RECURRENCE, ROTARY, SLOPES
from newllm.models.position import PositionEncodingConfig
from newllm.models.registry import BASELINE, find

BY_TYPE = {"rope": ROTARY, "alibi": ONE_SLOPE, "none": NO_ENCODING}

FULL_ATTENTION = "full attention"
# The same attention: `unified` only lets its encoding be chosen.
WITH_FULL_ATTENTION = ("pythia", "unified")
# Settings that every arm with a position encoding is compared by, whoever gives them.
SAID_BY_KIND = {"position", "alibi_slopes_by_head", "num_attention_heads"}


def encoding_of(arm: Arm) -> str:
    """Say in words how a model knows the order of its tokens.

    Parameters
    ----------
    arm
        Its size decides nothing of it.
    """
    position = getattr(_config(arm), "position", None)
    if position is None:
        return RECURRENCE
    encoding = PositionEncodingConfig.parse(position)
    return SLOPES if encoding.alibi_slopes_by_head else BY_TYPE[encoding.type]


def with_encodings(summary: pd.DataFrame) -> pd.DataFrame:
    """Add the column ``encoding`` to a summary: empty for what is no arm, as counts and trained models are not.

    Parameters
    ----------
    summary
        As `newllm.analysis.summary.summarize_arms` makes it.
    """
    return summary.assign(encoding=[_encoding_if_arm(arm) for arm in summary["arm"]])


def _encoding_if_arm(arm: str) -> str:
    try:
        return encoding_of(Arm.parse(arm))
    except ArmError:
        return ""


def memory_by_encoding(summary: pd.DataFrame) -> pd.DataFrame:
    """Set perplexities out by encoding and by what is kept, for what was trained with several encodings.

    Parameters
    ----------
    summary
        As `newllm.analysis.summary.summarize_arms` makes it; what is no arm, or one of another budget, is left out.

    Returns
    -------
    pandas.DataFrame
        One row for each encoding and number of query heads, in words, which the index holds; a column for each way of
        remembering, what keeps most first, with perplexity and bytes a token as text. Empty where there is none.
    """
    rows = []
    arms = summary[[bool(_encoding_if_arm(arm)) for arm in summary["arm"]]]
    for row in arms.dropna(subset=["kv_bytes_per_token"]).to_dict("records"):
        arm = Arm.parse(row["arm"])
        config = _config(arm)
        if getattr(config, "position", None) is not None:
            rows.append(
                {
                    "kept": FULL_ATTENTION if arm.method in WITH_FULL_ATTENTION else replace(arm, overrides=()).name,
                    "bytes": row["kv_bytes_per_token"],
                    "encoding": encoding_of(arm),
                    "heads": config.num_attention_heads,
                    "said": f"{row['perplexity']:.1f} ({row['kv_bytes_per_token']:,.0f})",
                }
            )
    table = pd.DataFrame(rows, columns=["kept", "bytes", "encoding", "heads", "said"])
    table = table[table.groupby("kept")["encoding"].transform("nunique") > 1]
    table["encoding"] = pd.Categorical(table["encoding"], categories=ENCODINGS, ordered=True)
    most_first = table.groupby("kept")["bytes"].max().sort_values(ascending=False, kind="stable").index
    written = table.pivot_table("said", ["encoding", "heads"], "kept", aggfunc="first", observed=True)
    written = written.reindex(columns=most_first).fillna("")
    written.index = pd.Index([f"{encoding}, {heads} heads" for encoding, heads in written.index])
    return written


def full_attention_of(arms: Iterable[str]) -> dict[str, str]:
    """Find for each arm the one of full attention that differs from it in what is kept alone.

    Both have the same position encoding and as many query heads, and whatever else one of them sets of what both have,
    such as their depth, the other has, too; only what the arm's method has otherwise anyway, such as the width of
    ``narrow``, belongs to its way of remembering.

    Parameters
    ----------
    arms
        Names of arms; those of full attention are compared with, and have no row.

    Returns
    -------
    dict of str to str
        Arms that have such a one among the others, in their order; of two that are the same, the shorter name.
    """
    parsed = {name: Arm.parse(name) for name in arms}
    kinds = {name: _kind(arm) for name, arm in parsed.items() if getattr(_config(arm), "position", None) is not None}
    full = sorted(
        (name for name in kinds if parsed[name].method in WITH_FULL_ATTENTION), key=lambda one: (-len(one), one)
    )
    by_kind = {kinds[name]: name for name in full}
    return {
        name: by_kind[kind]
        for name, kind in kinds.items()
        if parsed[name].method not in WITH_FULL_ATTENTION and kind in by_kind
    }


def _kind(arm: Arm) -> Hashable:
    """Return what an arm has in common with full attention beside it."""
    plain, baseline = _config(replace(arm, overrides=())), _config(Arm.parse(BASELINE))
    own = {
        name
        for name in find(arm.method).settings & find(BASELINE).settings - PositionEncodingConfig.settings()
        if getattr(plain, name) != getattr(baseline, name)
    }
    shared = find(BASELINE).settings - SAID_BY_KIND - own
    overrides = frozenset((name, value) for name, value in arm.overrides if name in shared)
    return encoding_of(arm), _config(arm).num_attention_heads, arm.lent_embedding, arm.frozen_embedding, overrides


def _config(arm: Arm) -> PreTrainedConfig:
    return arm.configure(ModelParameters(size="mini"))
