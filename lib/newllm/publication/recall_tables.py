"""The tables of RESULTS that say what of the past arms use, and which measures can tell arms apart at all."""

import pandas as pd

from newllm.analysis.recall import (
    CAN_TELL,
    CANNOT_TELL,
    GAIN,
    baseline_gains,
    cannot_rank,
    copying_in_columns,
    gains_by_distance,
    ranked_recall,
    with_recall_gain,
)
from newllm.analysis.summary import summarize_arms
from newllm.analysis.tables import COLUMNS, readable
from newllm.analysis.wording import text_in_words
from newllm.models.registry import BASELINE
from newllm.publication.published import CODE_SWEEP, LEADING_SWEEP, PASSES_SWEEP, published_sweep, published_table
from newllm.wording import number, plus_minus, with_interval

# Every text on which tables of arms say what is recalled.
SWEEPS = (LEADING_SWEEP, "context_kv", CODE_SWEEP)
RANKS = "ranks arms"


def baseline_recall() -> pd.DataFrame:
    """Write what the baseline itself gains by each measure of recall: where it does not, the measure ranks no arms."""
    columns = {}
    for name in SWEEPS:
        records = published_sweep(name)
        text = text_in_words(records.loc[records["arm"] == BASELINE, "parameters"].iloc[0])
        gains = baseline_gains(records, BASELINE).set_index("measure")
        columns[text] = gains.apply(_gain, axis="columns")
    measures = list(dict.fromkeys(measure for gains in columns.values() for measure in gains.index))
    table = pd.DataFrame(columns).reindex(measures)
    # Distances that do not fit into the windows of a text.
    return table.fillna("").rename_axis("measure").reset_index()


def _gain(row: pd.Series) -> str:
    """Write a gain, the least and most of a seed, and whether the measure tells; too short windows leave no gain."""
    verdict = RANKS if row["verdict"] == CAN_TELL else str(row["verdict"])
    seeds = [number(row[name], "{:+.3f}") for name in ("least_seed", "most_seed")]
    said = f"{with_interval(row, 'gain')}, seeds {seeds[0]} to {seeds[1]}" if all(seeds) else ""
    return ", ".join(part for part in (said, verdict) if part)


def recall() -> pd.DataFrame:
    """Write what of the past each arm uses on State of the Union addresses."""
    return _recall(LEADING_SWEEP)


def recall_in_code() -> pd.DataFrame:
    """Write what of the past each arm uses in the standard library."""
    return _recall(CODE_SWEEP)


def _recall(name: str) -> pd.DataFrame:
    """Write the arms of a sweep in the order of what can rank them; the heading of what cannot says so."""
    records = published_sweep(name)
    table = readable(ranked_recall(records, BASELINE))
    table["arm"] = [f"`{arm}`" for arm in table["arm"]]
    return table.rename(columns={column: f"{column}: {CANNOT_TELL}" for column in cannot_rank(records, BASELINE)})


def passages() -> pd.DataFrame:
    """Write what each arm gains on a passage of the State of the Union addresses that was read before, by distance."""
    return _passages(LEADING_SWEEP)


def passages_of_code() -> pd.DataFrame:
    """Write what each arm gains on a passage of the standard library that was read before, by distance."""
    return _passages(CODE_SWEEP)


def _passages(name: str) -> pd.DataFrame:
    """Write the arms of a sweep with a column for each distance, whoever gains most over the largest one first."""
    gains = gains_by_distance(published_sweep(name))
    distances = sorted(gains["distance"].unique())
    order = gains[gains["distance"] == distances[-1]].sort_values("gain", ascending=False)
    written = gains.assign(gain=[plus_minus(row, "gain", "{:.3f}") for row in gains.to_dict("records")])
    table = written.pivot(index="arm", columns="distance", values="gain").reindex(order["arm"])
    table.columns = [f"after {distance} tokens" for distance in distances]
    table["seeds"] = [f"{count}" for count in order["seeds"]]
    return table.rename_axis("arm").rename(index="`{}`".format).reset_index()


def copying_layers() -> pd.DataFrame:
    """Write in which layers trainings that learned to copy code do so: with all of their attention, and with some."""
    table = copying_in_columns(published_table("11_recall/tables/copying_layers"))
    table["arm"] = [f"`{arm}`" for arm in table["arm"]]
    gains = table.columns.drop(["arm", "passes", "seeds"])
    table[gains] = table[gains].map("{:.2f}".format)
    return table.astype(str)


def passes_over_code() -> pd.DataFrame:
    """Write what arms have learned of copying after one pass over the standard library, and after more of them."""
    more, once = published_sweep(PASSES_SWEEP), published_sweep(CODE_SWEEP)
    passes = pd.Series([given["epochs"] for given in more["parameters"]], index=more.index)
    # What one pass says of an arm is said among all arms of it.
    after_one = _after(once, 1)
    tables = [after_one[after_one["arm"].isin(more["arm"])]]
    for count in sorted(passes.unique()):
        tables.append(_after(more[passes == count], count))
    table = pd.concat(tables, ignore_index=True)
    table["arm"] = [f"`{arm}`" for arm in table["arm"]]
    names = ["arm", "passes", "perplexity", "accuracy", GAIN, "difference", "verdict", "seeds"]
    of_as_many = f"nats/token from {BASELINE} of as many"
    return readable(table, names).rename(columns={COLUMNS["difference"].words: of_as_many})


def _after(records: pd.DataFrame, passes: int) -> pd.DataFrame:
    """Summarise arms that were trained by so many passes, with what they recall."""
    summary = summarize_arms(records, BASELINE)
    arms = summary[summary["arm"].isin(records["arm"])]
    return with_recall_gain(arms, records, BASELINE).assign(passes=passes)


def truncated_contexts() -> pd.DataFrame:
    """Write what each trained model loses when it sees its last tokens alone."""
    table = published_table("11_recall/tables/truncation")
    return pd.DataFrame(
        [
            {
                "arm": f"`{row['arm']}`",
                "last tokens that are seen": f"{row['context']:,.0f}",
                "perplexity": f"{row['perplexity']:.1f}",
                "nats/token above the whole window": with_interval(row, "lost"),
                "tokens": f"{row['tokens']:,.0f}",
            }
            for row in table.to_dict("records")
        ]
    )
