"""The tables of RESULTS of single studies: Context-KV, the cascade, position encodings, facts, exchanged attention."""

from collections.abc import Sequence

import numpy as np
import pandas as pd

from newllm.analysis.recall import GAIN, with_recall_gain
from newllm.analysis.studies import base_arm, one_change_each
from newllm.analysis.summary import summarize_arms
from newllm.analysis.tables import COLUMNS, readable
from newllm.analysis.wording import text_in_words
from newllm.config.experiment import StudyParameters
from newllm.config.profiles import SHOWN, load_parameters
from newllm.experiments.floor import floors_of
from newllm.models.registry import BASELINE
from newllm.publication.published import CODE_SWEEP, LEADING_SWEEP, UnpublishedError, published_sweep, published_table
from newllm.wording import with_interval

# The control of what keeps as much however long the text is.
WINDOW = "window"
CHANGE = "change of the base arm, or arm"
STUDY_COLUMNS = (
    CHANGE,
    "kv_bytes",
    "perplexity",
    "accuracy",
    GAIN,
    "difference",
    "verdict",
    "stream_difference",
    "convergence_rate",
    "effective_rank",
    "seeds",
)


def context_kv() -> pd.DataFrame:
    """Write what each change of Context-KV does."""
    return _studies("08_context_kv", published_sweep("context_kv"))


def cascade() -> pd.DataFrame:
    """Write what each change of the cascade does, beside the baseline that lends its embedding."""
    return _studies("09_cascade", _cascades())


def _cascades() -> pd.DataFrame:
    lenders = published_sweep(LEADING_SWEEP)
    return pd.concat([published_sweep("cascade"), lenders[lenders["arm"] == BASELINE]], ignore_index=True)


def windows() -> pd.DataFrame:
    """Write what is lost where only the last tokens and the first few are kept, text by text, beside full attention.

    Verdicts and intervals are those that `WINDOW` has among all arms that were trained alike on its text.
    """
    cascades, others = published_sweep("cascade"), published_sweep(LEADING_SWEEP)
    addresses = pd.concat([cascades[cascades["arm"] == WINDOW], others], ignore_index=True)
    tables = [_window(records) for records in (addresses, published_sweep("context_kv"), published_sweep(CODE_SWEEP))]
    if all(table.empty for table in tables):
        raise UnpublishedError(f"newllm sweep context_kv -p arm={WINDOW}")
    return pd.concat(tables, ignore_index=True)


def _window(records: pd.DataFrame) -> pd.DataFrame:
    """Write one text's rows; none where `WINDOW` was not trained on it."""
    if WINDOW not in set(records["arm"]):
        return pd.DataFrame()
    summary = summarize_arms(records, BASELINE)
    rows = with_recall_gain(summary[summary["arm"].isin([WINDOW, BASELINE])], records, BASELINE)
    rows["arm"] = [f"`{arm}`" for arm in rows["arm"]]
    written = readable(rows, ["arm", "kv_bytes", "perplexity", "accuracy", GAIN, "difference", "verdict", "seeds"])
    written.insert(0, "text", text_in_words(records["parameters"].iloc[0]))
    return written.rename(columns={COLUMNS["difference"].words: f"nats/token from {BASELINE}"})


def _studies(notebook: str, records: pd.DataFrame) -> pd.DataFrame:
    """Write the base arm, what differs from it in one thing each, and what else was trained or counted."""
    parameters = load_parameters(notebook, SHOWN, {})
    if not isinstance(parameters, StudyParameters):
        raise TypeError(f"{notebook} has no base arm")
    base = base_arm(parameters).name
    studies = one_change_each(records, parameters)
    whole = summarize_arms(records, baseline=base)
    others = whole[~whole["arm"].isin(studies["arm"])]
    order = others["arm"].ne(base).sort_values(kind="stable").index
    named = others.loc[order].assign(change=[_name(arm, base) for arm in others.loc[order, "arm"]])
    # The base arm stands above its changes, and what is no change of it below.
    rows = pd.concat([named.iloc[:1], studies.assign(change=_in_words(studies["change"])), named.iloc[1:]])
    table = with_recall_gain(rows.rename(columns={"change": CHANGE}), records, base)
    # Of another budget than the base arm: said by an empty difference.
    table["verdict"] = table["verdict"].where(table["difference"].notna(), "")
    written = readable(table, STUDY_COLUMNS)
    return written.rename(columns={COLUMNS["difference"].words: "nats/token from the base arm"})


def _name(arm: str, base: str) -> str:
    return f"none: `{arm}`" if arm == base else f"`{arm}`"


def _in_words(changes: pd.Series) -> Sequence[str]:
    return [change.replace("_", " ") for change in changes]


def position_encodings() -> pd.DataFrame:
    """Write the perplexity of each encoding, and that in windows longer than those of the training."""
    longer = published_table("04_position_encodings/tables/extrapolation")
    records = published_sweep(LEADING_SWEEP)
    # Of the seeds that the run has read, as its table says.
    records = records[records["arm"].isin(longer["arm"]) & records["seed"].isin(longer["seed"])]
    by_length = longer.pivot_table("perplexity", index="arm", columns="seq_length")
    # The same tokens are predicted at every length.
    by_length = pd.concat([by_length, _floor_by_length(records, int(longer["tokens"].iloc[0]))])
    table = with_recall_gain(published_table("04_position_encodings/tables/summary"), records)
    lengths = [f"windows of {length}" for length in by_length]
    for length, name in zip(by_length, lengths, strict=True):
        perplexities = by_length[length].reindex(table["arm"])
        table[name] = ["" if np.isnan(value) else f"{value:.1f}" for value in perplexities]
    table["arm"] = [f"`{arm}`" for arm in table["arm"]]
    written = readable(table, ["arm", *lengths, "accuracy", GAIN, "difference", "verdict", "seeds"])
    return written.rename(columns={"arm": "model", COLUMNS["difference"].words: "nats/token from RoPE"})


def _floor_by_length(records: pd.DataFrame, tokens: int) -> pd.DataFrame:
    """Return the perplexity of counts on the first tokens, at the length of their windows: they look no further."""
    return pd.DataFrame(
        {
            floor.seq_length: {
                score.arm: float(np.exp(np.mean(score.window_losses[: tokens // floor.seq_length])))
                for score in floor.scores
            }
            for floor in floors_of(records)
        }
    )


def reversal_curse() -> pd.DataFrame:
    """Write what models know of facts that they were taught in one direction."""
    summary = published_table("05_reversal_curse/tables/reversal")
    before = summary[~summary["taught"]].set_index("arm")
    rows = []
    for _, row in summary[summary["taught"]].iterrows():
        untaught = before.loc[row["arm"]]
        rows.append(
            {
                "model": f"`{row['arm']}`",
                "held-out text": f"{untaught['text_perplexity']:.0f} → {row['text_perplexity']:.0f}",
                "forward": f"{untaught['forward_perplexity']:.0f} → {row['forward_perplexity']:.1f}",
                "backward": f"{untaught['backward_perplexity']:.0f} → {row['backward_perplexity']:.0f}",
                "ratio": f"{row['ratio']:.3f}",
                "gap": f"{row['gap']:.0f}",
                "margin gained forward": with_interval(row, "forward_gain", 2),
                "margin gained backward": with_interval(row, "backward_gain", 2),
                "seeds": row["seeds"],
            }
        )
    return pd.DataFrame(rows)


def exchanged_attention() -> pd.DataFrame:
    """Write what becomes of weights that are read by another attention than that of their training."""
    readings = published_table("10_key_attention_and_projected_values/tables/readings")
    return pd.DataFrame(
        [
            {
                "trained as": f"`{row['trained_as']}`",
                "read as": f"`{row['read_as']}`, {row['scored']}",
                "perplexity": f"{row['perplexity']:.1f}",
                "nats/token from reading as trained": ""
                if row["read_as"] == row["trained_as"]
                else with_interval(row, "difference"),
                "seeds": row["seeds"],
            }
            for _, row in readings.iterrows()
        ]
    )
