"""How numbers with their uncertainty are written, the same in the terminal, in documents and on the leaderboard."""

from collections.abc import Mapping
from typing import Any

import pandas as pd

Row = Mapping[Any, Any] | pd.Series


def number(value: Any, pattern: str) -> str:
    """Format a number; what was not measured is empty."""
    return "" if value is None or pd.isna(value) else pattern.format(value)


def plus_minus(row: Row, name: str, pattern: str) -> str:
    """Write a mean with half of its 95 % interval, where there is one: ``95.3 ± 1.2``.

    Parameters
    ----------
    row
        A row of `newllm.analysis.summary.summarize_arms`.
    name
        The measure; its interval is ``name_low`` and ``name_high``.
    pattern
        How both numbers are formatted.
    """
    low, high = row.get(f"{name}_low"), row.get(f"{name}_high")
    mean = number(row.get(name), pattern)
    return mean if not mean or pd.isna(low) or pd.isna(high) else f"{mean} ± {pattern.format((high - low) / 2)}"


def with_interval(row: Row, name: str, digits: int = 3) -> str:
    """Write a difference with its 95 % interval, ``+0.012 [-0.003, +0.027]``; empty where there is none."""
    if pd.isna(row.get(name)):
        return ""
    ends = f"[{row[f'{name}_low']:+.{digits}f}, {row[f'{name}_high']:+.{digits}f}]"
    return f"{row[name]:+.{digits}f} {ends}"


def arms_table(summary: pd.DataFrame, baseline: str | None = None) -> pd.DataFrame:
    """Write a summary of arms as texts, in the columns of every table of results.

    Parameters
    ----------
    summary
        As `newllm.analysis.summary.summarize_arms` makes it; columns before ``arm`` come first.
    baseline
        The arm that differences were taken from.

    Returns
    -------
    pandas.DataFrame
        Texts; ± is half of a 95 % interval over the seeds. Columns in which no row has anything are left out.
    """
    by = list(summary.columns[: summary.columns.get_loc("arm")])
    rows = [
        {
            **{name: str(row[name]) for name in by},
            "arm": row["arm"],
            "parameters": number(row["parameter_count"], "{:,.0f}"),
            "KV bytes/token": number(row["kv_bytes_per_token"], "{:,.0f}"),
            "perplexity": plus_minus(row, "perplexity", "{:.1f}"),
            "bits/byte": plus_minus(row, "bits_per_byte", "{:.3f}"),
            "accuracy": plus_minus(row, "accuracy", "{:.1%}"),
            "converged": number(row.get("convergence_rate"), "{:.0%}"),
            "effective rank": number(row.get("effective_rank"), "{:.0%}"),
            f"nats/token from {baseline}": with_interval(row, "difference"),
            "decoded tokens/s": number(row.get("decoded_tokens_per_second"), "{:.1f}"),
            "seeds": str(row["seeds"]),
        }
        for row in summary.to_dict("records")
    ]
    table = pd.DataFrame(rows)
    return table.loc[:, (table != "").any()]
