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
    return (
        mean
        if not mean or pd.isna(low) or pd.isna(high)
        else f"{mean} ± {pattern.replace('+', '').format((high - low) / 2)}"
    )


def with_interval(row: Row, name: str, digits: int = 3) -> str:
    """Write a difference with its 95 % interval, where there is one: ``+0.012 [-0.003, +0.027]``."""
    low, high = row.get(f"{name}_low"), row.get(f"{name}_high")
    mean = number(row.get(name), f"{{:+.{digits}f}}")
    return mean if not mean or pd.isna(low) or pd.isna(high) else f"{mean} [{low:+.{digits}f}, {high:+.{digits}f}]"


def text_in_words(parameters: Mapping[str, Any]) -> str:
    """Say which text a trial read: its source, windows and their length."""
    return f"{parameters['source']}, {parameters['samples']} windows of {parameters['seq_length']}"
