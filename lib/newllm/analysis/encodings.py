"""How arms know the order of tokens, apart from what they keep: the two things that a comparison of caches mixes."""

from collections.abc import Iterable
from dataclasses import replace

import pandas as pd
from transformers import PreTrainedConfig

from newllm.config.groups import ModelParameters
from newllm.experiments.arms import Arm, ArmError
from newllm.figures.arm_words import ENCODINGS, NO_ENCODING, ONE_SLOPE, RECURRENCE, ROTARY, SLOPES
from newllm.models.position import PositionEncodingConfig

BY_TYPE = {"rope": ROTARY, "alibi": ONE_SLOPE, "none": NO_ENCODING}

FULL_ATTENTION = "full attention"
# The same attention: `unified` only lets its encoding be chosen.
WITH_FULL_ATTENTION = ("pythia", "unified")


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
    """Find for each arm the one of full attention that has its position encoding and as many query heads.

    Parameters
    ----------
    arms
        Names of arms; those of full attention are compared with, and have no row.

    Returns
    -------
    dict of str to str
        Arms that have such a one among the others, in their order.
    """
    parsed = {name: Arm.parse(name) for name in arms}
    kinds = {
        name: (encoding_of(arm), _config(arm).num_attention_heads, arm.lent_embedding, arm.frozen_embedding)
        for name, arm in parsed.items()
        if getattr(_config(arm), "position", None) is not None
    }
    full = {kinds[name]: name for name, arm in parsed.items() if name in kinds and arm.method in WITH_FULL_ATTENTION}
    return {
        name: full[kind]
        for name, kind in kinds.items()
        if parsed[name].method not in WITH_FULL_ATTENTION and kind in full
    }


def _config(arm: Arm) -> PreTrainedConfig:
    return arm.configure(ModelParameters(size="mini"))
