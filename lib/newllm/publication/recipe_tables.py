"""The tables of RESULTS that say what a recipe decides: the optimiser, the text, and what was published before."""

import pandas as pd

from newllm.analysis.budgets import told_by_text
from newllm.analysis.learning_rates import LOSS, gained_by_rates
from newllm.analysis.recall import GAIN
from newllm.analysis.summary import summarize_arms
from newllm.experiments.floor import floors_of
from newllm.models.registry import BASELINE
from newllm.publication.published import (
    ADAMW_SWEEP,
    BUDGETS_SWEEP,
    CODE_SWEEP,
    LEADING_SWEEP,
    RATES_OF_ALL_TEXT_SWEEP,
    RATES_ON_CODE_SWEEP,
    RATES_SWEEP,
    published_rates,
    published_sweep,
    published_table,
)
from newllm.wording import number, plus_minus, with_interval


def optimisers() -> pd.DataFrame:
    """Write what the baseline reaches by each optimiser at each rate that was tried, on the same text."""
    rows = []
    for optimiser, sweep in (("Muon for the matrices, AdamW for the rest", RATES_SWEEP), ("AdamW", ADAMW_SWEEP)):
        records, found = published_rates(sweep, BASELINE)
        (best,) = found.to_dict("records")
        for rate, group in records.groupby("learning_rate"):
            rows.append(
                {
                    "optimiser": optimiser,
                    "rate": f"{rate:g}",
                    "validation loss (nats/token)": f"{group[LOSS].mean():.3f}",
                    "minutes a trial": f"{group['duration_seconds'].mean() / 60:.0f}",
                    "best": f"yes, {best['place']} the grid" if rate == best["learning_rate"] else "",
                    "seeds": f"{group['seed'].nunique()}",
                }
            )
    return pd.DataFrame(rows)


def rates_of_all_text() -> pd.DataFrame:
    """Write what arms gain on all of the addresses by another rate of the matrices than that of the table of arms."""
    return _other_rates(RATES_OF_ALL_TEXT_SWEEP, LEADING_SWEEP)


def rates_on_code() -> pd.DataFrame:
    """Write what arms gain on the standard library by another rate of the matrices than that of the table of arms."""
    return _other_rates(RATES_ON_CODE_SWEEP, CODE_SWEEP)


def _other_rates(sweep: str, table: str) -> pd.DataFrame:
    """Write arms of a published sweep beside the same in that of a table, which is all of one rate."""
    found = gained_by_rates(published_sweep(sweep), published_sweep(table))
    return pd.DataFrame(
        [
            {
                "arm": f"`{row['arm']}`",
                f"perplexity at {row['usual_rate']:g}": f"{row['usual_perplexity']:.1f}",
                "other rate": f"{row['rate']:g}",
                "perplexity at that": f"{row['perplexity']:.1f}",
                "nats/token by it": plus_minus(row, "difference", "{:+.3f}"),
                "verdict": row["verdict"],
                f"{GAIN}, at {row['usual_rate']:g}": number(row["usual_recalled"], "{:.3f}"),
                "at that": number(row["recalled"], "{:.3f}"),
                "seeds": f"{row['seeds']:.0f} beside {row['usual_seeds']:.0f}",
            }
            for row in found.to_dict("records")
        ]
    )


def text_budgets() -> pd.DataFrame:
    """Write how well two arms are told apart after more and more text, measured with the same seeds."""
    records = pd.concat([published_sweep(BUDGETS_SWEEP), published_sweep(LEADING_SWEEP)], ignore_index=True)
    arm = next(name for name in published_sweep(BUDGETS_SWEEP)["arm"].unique() if name != BASELINE)
    samples = pd.Series([given["samples"] for given in records["parameters"]], index=records.index)
    return pd.DataFrame(
        [
            {
                "windows of training": f"{row['samples']:,}" if row["samples"] != "all" else "all",
                "minutes by the clock, one trial": f"{row['minutes']:.0f}",
                f"perplexity of `{BASELINE}`": f"{row['base_perplexity']:.1f}",
                "perplexity of the other": f"{row['perplexity']:.1f}",
                "counts of 2-, 3- and 4-grams": _counts(records[samples == row["samples"]]),
                f"nats/token from `{BASELINE}`": with_interval(row, "difference"),
                "verdict": row["verdict"],
                "seeds": f"{row['seeds']}",
            }
            for row in told_by_text(records, arm, BASELINE).to_dict("records")
        ]
    )


def _counts(records: pd.DataFrame) -> str:
    """Write the perplexity of counts of n-grams on the text of some trials, from the shortest to the longest."""
    (floor,) = floors_of(records)
    return ", ".join(f"{row['perplexity']:.1f}" for row in floor.rows())


def first_tables() -> pd.DataFrame:
    """Write the differences of the tables that were published first beside those of today."""
    summary = summarize_arms(published_sweep(LEADING_SWEEP), BASELINE).set_index("arm")
    before = published_table("first_tables")
    return pd.DataFrame(
        [
            {
                "arm": f"`{row['arm']}`",
                "first table: 256 k tokens three times, AdamW at 1e-4": number(row["nats_at_1e-4"], "{:+.3f}"),
                "the same at 1e-3": number(row["nats_at_1e-3"], "{:+.3f}"),
                "today: all text once, Muon": number(summary["difference"].get(row["arm"]), "{:+.3f}"),
            }
            for row in before[before["arm"] != BASELINE].to_dict("records")
        ]
    )
