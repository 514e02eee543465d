"""Figures of differences: a point with its interval on a line of its own, as a forest plot draws them."""

import textwrap
from collections.abc import Mapping

import pandas as pd
import plotly.graph_objects as go

from newllm.evaluation import verdicts
from newllm.figures.pareto import far_above
from newllm.figures.style import BETTER, EQUAL, INK, UNTOLD, WORSE, finish, interval_bars, name_bars, say_nothing

# Colour and symbol of each verdict of `newllm.evaluation.verdicts`, in the order of the legend; hollow: of seeds
# nothing is known.
VERDICT_LOOKS = {
    verdicts.BETTER: (BETTER, "circle"),
    verdicts.EQUIVALENT: (EQUAL, "square"),
    verdicts.OPEN: (UNTOLD, "diamond"),
    verdicts.TOO_FEW_SEEDS: (UNTOLD, "circle-open"),
    verdicts.WORSE: (WORSE, "triangle-up"),
}

ROW = 26  # pixels of an arm whose name is short


def arm_differences(summary: pd.DataFrame, baseline: str | None) -> go.Figure:
    """Draw the difference of each arm from the baseline with its interval, the best first, by its verdict.

    Parameters
    ----------
    summary
        Rows of `newllm.analysis.summary.summarize_arms`: columns arm, seeds, difference (nats per token), the ends of
        its interval, difference_low and difference_high, verdict, and kv_bytes_per_token. Rows without a difference are
        left out, and so are those that keep no cache: counts lie further apart than arms do.
    baseline
        The arm that differences are from; None where there is none, and then the picture says so.

    Returns
    -------
    plotly.graph_objects.Figure
        One point an arm. Where an arm is far worse than all others, it stands at the right edge with its number, as it
        would flatten their differences.
    """
    title = "Differences: left is better"
    if baseline is None:
        return say_nothing(title, "without the baseline there is nothing to take differences from")
    rows = summary.dropna(subset=["difference", "kv_bytes_per_token"]).sort_values("difference", kind="stable")
    if rows.empty:
        return say_nothing(title, f"no other arm has a difference from {baseline}")
    far = far_above(rows["difference"])
    figure = go.Figure()
    _draw(figure, rows[~far], "arm")
    over = "documents alone" if rows["seeds"].max() == 1 else "seeds and documents"
    figure = finish(figure, title, f"nats per token from {baseline}, held out<br>(95 % over {over})", "")
    numbers = {row["arm"]: f"{row['difference']:+.3f}" for row in rows[far].to_dict("records")}
    return mark_far(name_bars(figure, rows["arm"], row=ROW), numbers)


def mark_far(figure: go.Figure, far: Mapping[str, str]) -> go.Figure:
    """Draw the axis at zero, and write at the right end what lies beyond it, each on the line of its arm.

    Parameters
    ----------
    figure
        A finished picture of the other arms.
    far
        What is written for each arm that lies beyond.
    """
    for arm, text in far.items():
        figure.add_annotation(
            x=1,
            xref="x domain",
            xanchor="right",
            y=arm,
            text=f"{text} \N{RIGHTWARDS ARROW}",
            showarrow=False,
            font_size=11,
        )
    return figure.add_vline(x=0, line_dash="dot", line_color=INK)


def differences(studies: pd.DataFrame, base: str) -> go.Figure:
    """Difference of each change from what it changes, with its interval over seeds and documents.

    Parameters
    ----------
    studies
        Rows of `newllm.analysis.studies.one_change_each`: columns change, difference (nats per token), the ends of its
        interval, difference_low and difference_high, and verdict.
    base
        What the differences are from, in words.

    Returns
    -------
    plotly.graph_objects.Figure
        The picture; without a row it says that there is no difference to show.
    """
    title = "One change each: left is better (95 % over seeds and documents)"
    if studies.empty:
        return say_nothing(title, "no other arm to take a difference of")
    figure = go.Figure()
    _draw(figure, studies, "change")
    figure.add_vline(x=0, line_dash="dot", line_color=INK)
    figure = finish(figure, title, "<br>".join(textwrap.wrap(f"nats per token from {base}, held out", 48)), "")
    figure.update_layout(height=204 + 34 * max(len(studies), 2))
    order = list(dict.fromkeys(studies["change"]))
    return figure.update_yaxes(autorange="reversed", automargin=True, categoryorder="array", categoryarray=order)


def _draw(figure: go.Figure, rows: pd.DataFrame, label: str) -> None:
    """Draw a point for each difference, with its interval, on the line of its label, by its verdict."""
    for verdict, (colour, symbol) in VERDICT_LOOKS.items():
        told = rows[rows["verdict"] == verdict]
        if len(told):
            figure.add_scatter(
                x=told["difference"],
                y=told[label],
                mode="markers",
                error_x=interval_bars(told, "difference", thickness=2) | {"width": 6},
                marker={"color": colour, "symbol": symbol, "size": 9, "line_width": 2 * symbol.endswith("open")},
                name=verdict,
                legendgroup=verdict,
                showlegend=True,
            )
