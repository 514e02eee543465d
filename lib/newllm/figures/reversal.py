"""Figures of the reversal curse."""

import pandas as pd
import plotly.graph_objects as go

from newllm.figures.style import COLOURS, INK, finish, interval_bars


def directions(results: pd.DataFrame) -> go.Figure:
    """Forward and backward perplexity of facts, arm by arm.

    Parameters
    ----------
    results
        Columns arm, forward_perplexity, backward_perplexity; one row an arm and seed.
    """
    means = results.groupby("arm", sort=False, as_index=False)[["forward_perplexity", "backward_perplexity"]].mean()
    figure = go.Figure()
    for index, direction in enumerate(("forward", "backward")):
        figure.add_bar(
            x=means["arm"],
            y=means[f"{direction}_perplexity"],
            name=direction,
            marker_color=COLOURS[index],
            text=[f"{value:,.3g}" for value in means[f"{direction}_perplexity"]],
        )
    return finish(figure, "Facts asked forward and backward", "", "perplexity of the sentence")


def knowledge_gains(summary: pd.DataFrame) -> go.Figure:
    """By how much teaching raised the preference for the right name over wrong ones, asked in each direction.

    Parameters
    ----------
    summary
        Columns arm, and for forward and backward ``_gain``, ``_gain_low`` and ``_gain_high`` (nats).
    """
    figure = go.Figure()
    for index, direction in enumerate(("forward", "backward")):
        figure.add_scatter(
            x=summary["arm"],
            y=summary[f"{direction}_gain"],
            error_y=interval_bars(summary, f"{direction}_gain", thickness=1.5),
            mode="markers",
            marker={"color": COLOURS[index], "size": 11},
            name=f"asked {direction}",
            # Both markers of an arm stand beside each other.
            offsetgroup=direction,
        )
    figure.update_layout(scattermode="group", scattergap=0.7)
    figure.add_hline(y=0, line_dash="dot", line_color=INK)
    return finish(figure, "What teaching in one direction taught", "", "gain of the right name (nats)")
