"""Tables as a reader needs them: one thing a row, columns in the same words wherever they stand, nothing that is NaN.

`readable` writes any table as texts; `arms_table` is the table of a comparison. Notebooks show them with
`newllm.notebook.tables.show`, the terminal and the documents as text.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd

from newllm.evaluation.recall_report import MEASURES
from newllm.wording import number, plus_minus

INTERVAL_ENDS = ("_low", "_high")
BAR_LENGTH = 8
BARS = "as a bar"
EIGHTHS = " ▏▎▍▌▋▊▉█"


@dataclass(frozen=True)
class Column:
    """How a measure is written.

    Attributes
    ----------
    words
        The heading.
    pattern
        How a number is formatted.
    """

    words: str
    pattern: str


COLUMNS = {
    "parameter_count": Column("parameters", "{:,.0f}"),
    "kv_bytes_per_token": Column("KV bytes a token (measured)", "{:,.0f}"),
    "bytes_per_token": Column("bytes a token (measured)", "{:,.0f}"),
    "kv_bytes": Column("KV bytes of a window (measured)", "{:,.0f}"),
    "kv_share": Column("of the baseline's bytes", "{:.1%}"),
    "perplexity": Column("perplexity", "{:.1f}"),
    "stream_perplexity": Column("perplexity on the continuous stream", "{:.1f}"),
    "bits_per_byte": Column("bits/byte", "{:.3f}"),
    "accuracy": Column("accuracy", "{:.1%}"),
    "lambada_accuracy": Column("LAMBADA accuracy", "{:.1%}"),
    "lambada_perplexity": Column("LAMBADA perplexity", "{:,.0f}"),
    "wikitext_word_perplexity": Column("WikiText-2 perplexity a word", "{:,.0f}"),
    "wikitext_bits_per_byte": Column("WikiText-2 bits/byte", "{:.3f}"),
    "convergence_rate": Column("converged (worst block)", "{:.0%}"),
    "budget": Column("trained with", "{}"),
    "effective_rank": Column("effective rank", "{:.0%}"),
    "difference": Column("nats/token from the baseline", "{:+.3f}"),
    "difference_p": Column("p (Holm)", "{:.3f}"),
    "stream_difference": Column("the same on the continuous stream", "{:+.3f}"),
    "decoded_tokens_per_second": Column("decoded tokens/s", "{:.1f}"),
    "control_parameters": Column("parameters of the control", "{:,.0f}"),
    "control_perplexity": Column("perplexity of the control", "{:.1f}"),
    "random_perplexity": Column("perplexity where it is left random", "{:.1f}"),
    "control_difference": Column("nats/token from the control", "{:+.3f}"),
    "seeds": Column("seeds", "{:.0f}"),
    "values_per_token": Column("values a token (measured)", "{:,.6g}"),
    "state_bytes": Column("bytes of state", "{:,.0f}"),
    "saved": Column("saved of pythia's bytes", "{:.1%}"),
    "largest_leak": Column("largest leak", "{:.0e}"),
    "cache_error": Column("cached - uncached", "{:.0e}"),
    "validation_loss": Column("validation loss (nats)", "{:.4f}"),
    "seq_length": Column("window (tokens)", "{:,.0f}"),
    "context": Column("last tokens that are seen", "{:,.0f}"),
    "tokens_before": Column("tokens read before", "{:,.0f}"),
    "cache_mib": Column("cache (MiB)", "{:,.3f}"),
    "peak_mib": Column("cache and step together (MiB)", "{:,.3f}"),
    "gain": Column("gain (nats/token)", "{:.3f}"),
    "least_seed": Column("least of a seed", "{:.3f}"),
    "most_seed": Column("most of a seed", "{:.3f}"),
    "forward_gain": Column("gain when asked forward (nats)", "{:z.3f}"),
    "backward_gain": Column("gain when asked backward (nats)", "{:z.3f}"),
    "lost": Column("loss above the whole window (nats/token)", "{:.3f}"),
    "margin": Column("margin of the right name (nats)", "{:z.4f}"),
    "right": Column("right name chosen", "{:.1%}"),
    # What rounds to nothing has no sign.
    **{words: Column(words, "{:z.3f}") for words in MEASURES.values()},
}

# Said without an interval: how far a recurrence is what it is meant to be, by which nothing is compared.
WITHOUT_INTERVAL = ("convergence_rate", "effective_rank")

# The columns of every table of results, in their order.
RESULTS = (
    "parameter_count",
    "kv_bytes_per_token",
    "perplexity",
    "bits_per_byte",
    "accuracy",
    "lambada_accuracy",
    "lambada_perplexity",
    "wikitext_word_perplexity",
    "convergence_rate",
    "effective_rank",
    "difference",
    "verdict",
    "seeds",
    "budget",
)


def arms_table(summary: pd.DataFrame, baseline: str | None = None, more: Sequence[str] = ()) -> pd.DataFrame:
    """Write a summary of arms as texts, in the columns of every table of results, an arm a row.

    Parameters
    ----------
    summary
        As `newllm.analysis.summary.summarize_arms` makes it; columns before ``arm`` come first. Its order is kept.
    baseline
        The arm that differences were taken from.
    more
        Columns of the summary that stand behind those of every table.

    Returns
    -------
    pandas.DataFrame
        Texts; ± is half of a 95 % interval. Columns in which no row has anything are left out, and so is the budget
        where it is `shared_budget`.
    """
    by = list(summary.columns[: summary.columns.get_loc("arm")])
    columns = [name for name in (*by, "arm", *RESULTS, *more) if name != "budget" or not shared_budget(summary)]
    table = readable(summary, columns)
    if baseline is not None:
        table = table.rename(columns={COLUMNS["difference"].words: f"nats/token from {baseline}"})
    bytes_column = COLUMNS["kv_bytes_per_token"].words
    if bytes_column in table:
        table.insert(list(table).index(bytes_column) + 1, BARS, bars(summary["kv_bytes_per_token"].fillna(0)))
    return table


def shared_budget(summary: pd.DataFrame) -> str:
    """Return the budget of all arms that were trained; nothing where there are several, or none is known."""
    known = set(summary["budget"].dropna()) - {""} if "budget" in summary else set()
    return str(*known) if len(known) == 1 else ""


def readable(frame: pd.DataFrame, columns: Sequence[str] | None = None) -> pd.DataFrame:
    """Write a table as texts: words for names, ± for intervals, and nothing where nothing was measured.

    Parameters
    ----------
    frame
        One thing a row. The ends of an interval are in ``<name>_low`` and ``<name>_high``.
    columns
        Names of columns in the order to show; those that the frame has not are left out. All of them where omitted.

    Returns
    -------
    pandas.DataFrame
        Texts, by heading; columns in which no row has anything are left out.
    """
    names = list(frame.columns) if columns is None else list(columns)
    shown = list(dict.fromkeys(_measure(name, frame) for name in names))
    rows = frame.to_dict("records")
    table = pd.DataFrame({_words(name): [_text(row, name) for row in rows] for name in shown if _is_there(name, frame)})
    return table.loc[:, (table != "").any()] if len(table) else table


def bars(values: Sequence[float] | pd.Series) -> list[str]:
    """Draw numbers as bars of text that begin at zero; the largest is eight characters long.

    Parameters
    ----------
    values
        At least 0.
    """
    largest = max(values, default=0)
    eighths = [math.ceil(8 * BAR_LENGTH * value / largest) if largest > 0 else 0 for value in values]
    return [("█" * (length // 8) + EIGHTHS[length % 8].strip()).ljust(BAR_LENGTH) for length in eighths]


def _measure(name: str, frame: pd.DataFrame) -> str:
    """Return the measure that a column is of: the ends of an interval stand beside their mean."""
    for end in INTERVAL_ENDS:
        measure = name.removesuffix(end)
        if measure != name and all(f"{measure}{one}" in frame for one in INTERVAL_ENDS):
            return measure
    return name


def _is_there(name: str, frame: pd.DataFrame) -> bool:
    return name in frame or f"{name}_low" in frame


def _words(name: str) -> str:
    return COLUMNS[name].words if name in COLUMNS else name.replace("_", " ")


def _text(row: Mapping[Any, Any], name: str) -> str:
    """Write one entry."""
    value = row.get(name)
    if name not in row:
        half = (row[f"{name}_high"] - row[f"{name}_low"]) / 2
        return number(half, f"± {_pattern(name, half)}")
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float | int):
        pattern = _pattern(name, value)
        if name not in WITHOUT_INTERVAL:
            return plus_minus(row, name, pattern)
        width = row.get("block_width", math.nan) if name == "effective_rank" else math.nan
        written = number(value, pattern)
        return written if pd.isna(width) or not written else f"{written} of {width:.0f}"
    return "" if value is None else str(value)


def _pattern(name: str, value: float) -> str:
    """Return how a number of a column is formatted."""
    if name in COLUMNS:
        return COLUMNS[name].pattern
    return "{:,}" if isinstance(value, int) else "{:.4g}"
