"""The tables of arms in README and RESULTS: what they reach, beside which controls, and at which learning rates."""

import math

import pandas as pd

from newllm.analysis.comparisons import against_controls, against_full_attention
from newllm.analysis.encodings import FULL_ATTENTION, memory_by_encoding
from newllm.analysis.learning_rates import LOSS, MIDDLE
from newllm.analysis.recall import GAIN, with_recall_gain
from newllm.analysis.summary import baseline_among, summarize_arms
from newllm.analysis.tables import BARS, COLUMNS, arms_table, readable
from newllm.figures.arm_words import arm_in_words
from newllm.models.registry import BASELINE, controls
from newllm.publication.published import CODE_SWEEP, LEADING_SWEEP, RATES_SWEEP, published_rates, published_sweep
from newllm.wording import plus_minus

# What README shows of `newllm.analysis.tables.RESULTS`; RESULTS has them all.
GLANCE = (
    "arm",
    COLUMNS["kv_bytes_per_token"].words,
    BARS,
    COLUMNS["perplexity"].words,
    COLUMNS["accuracy"].words,
    GAIN,
    f"nats/token from {BASELINE}",
    "verdict",
    COLUMNS["seeds"].words,
)


def glance() -> pd.DataFrame:
    """Write the arms that lead in README as a first look needs them."""
    return _glance(LEADING_SWEEP)


def glance_at_code() -> pd.DataFrame:
    """Write the arms that read code as a first look needs them."""
    return _glance(CODE_SWEEP)


def _glance(sweep: str) -> pd.DataFrame:
    """Write the arms of a published sweep named in words, with what they recall."""
    table = _arms(sweep)
    named = table.assign(arm=[arm_in_words(arm) for arm in table["arm"]])
    return named[[column for column in GLANCE if column in named]]


def encodings() -> pd.DataFrame:
    """Write the arms that lead in README by how positions are encoded and by what is kept."""
    table = memory_by_encoding(summarize_arms(published_sweep(LEADING_SWEEP), BASELINE))
    table.columns = [name if name == FULL_ATTENTION else f"`{name}`" for name in table.columns]
    return table.rename_axis("positions, query heads").reset_index()


def sotu() -> pd.DataFrame:
    """Write the arms that read all State of the Union addresses once."""
    return _sweep(LEADING_SWEEP)


def stdlib() -> pd.DataFrame:
    """Write the arms that read the standard library in windows of 512, where caches can be told apart."""
    return _sweep(CODE_SWEEP)


def _sweep(name: str) -> pd.DataFrame:
    """Write the arms of a published sweep by the names that make them."""
    table = _arms(name)
    return table.assign(arm=[f"`{arm}`" for arm in table["arm"]])


def _arms(name: str) -> pd.DataFrame:
    """Write the arms of a published sweep beside the floor: the columns of every table of results, and the recall."""
    records = published_sweep(name)
    baseline = baseline_among(records)
    summary = with_recall_gain(summarize_arms(records, baseline), records, baseline)
    table = arms_table(summary, baseline, more=[GAIN])
    if GAIN in table:
        # Beside what is known, what is remembered.
        table.insert(list(table).index(COLUMNS["accuracy"].words) + 1, GAIN, table.pop(GAIN))
    return table


def savings() -> pd.DataFrame:
    """Write each arm that keeps less than the baseline beside the controls that keep as many bytes, where there are."""
    records = published_sweep(LEADING_SWEEP)
    summary = summarize_arms(records)
    whole = summary.loc[summary["arm"] == BASELINE, "kv_bytes_per_token"].item()
    methods = records.drop_duplicates("arm").set_index("arm")["method"]
    less = summary[summary["kv_bytes_per_token"] < whole]
    arms = less[~less["arm"].map(methods).isin(controls())]
    own = ["kv_bytes_per_token", "arm", "parameter_count", "perplexity"]
    beside = against_controls(records).drop(columns=["kv_bytes_per_token", "perplexity"])
    table = arms[own].merge(beside, on="arm", how="left")
    table["verdict"] = table["verdict"].fillna("")
    table["control_parameters"] = table["control"].map(summary.set_index("arm")["parameter_count"])
    table = table.sort_values(
        ["kv_bytes_per_token", "perplexity", "control_perplexity"], ascending=[False, True, True], kind="stable"
    )
    for name in ("arm", "control"):
        table[name] = [f"`{value}`" if isinstance(value, str) else "" for value in table[name]]
    written = readable(
        table, [*own, "control", "control_parameters", "control_perplexity", "control_difference", "verdict"]
    )
    bytes_column = COLUMNS["kv_bytes_per_token"].words
    return written[["arm", bytes_column, *(name for name in written if name not in ("arm", bytes_column))]]


def same_encoding() -> pd.DataFrame:
    """Write what each cache costs alone: beside full attention of the same encoding and as many heads."""
    table = against_full_attention(published_sweep(LEADING_SWEEP))
    return pd.DataFrame(
        [
            {
                "arm": f"`{row['arm']}`",
                COLUMNS["kv_bytes_per_token"].words: f"{row['kv_bytes_per_token']:,.0f}",
                "perplexity": f"{row['perplexity']:.1f}",
                "full attention of its encoding": f"`{row['full_attention']}`",
                "its perplexity": f"{row['full_perplexity']:.1f}",
                "nats/token from it": plus_minus(row, "difference", "{:+.3f}"),
                "verdict": row["verdict"],
                "seeds": f"{row['seeds']:.0f}",
            }
            for row in table.to_dict("records")
        ]
    )


def learning_rates() -> pd.DataFrame:
    """Write the validation loss of each arm at each learning rate that was tried, the lowest loss first."""
    records, best = published_rates(RATES_SWEEP)
    best = best.set_index("arm")
    losses = records.pivot_table(LOSS, index="arm", columns="learning_rate").loc[best.index]
    written = pd.DataFrame({"model": [f"`{arm}`" for arm in best.index]})
    for rate in losses:
        written[f"{rate:g}"] = ["" if math.isnan(loss) else f"{loss:.3f}" for loss in losses[rate]]
    written["best rate"] = [
        f"{rate:g}" if place == MIDDLE else f"{rate:g}, the {place} tried"
        for rate, place in zip(best["learning_rate"], best["place"], strict=True)
    ]
    return written
