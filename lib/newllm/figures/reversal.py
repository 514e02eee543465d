"""Figures of the reversal curse."""

import pandas as pd
import plotly.graph_objects as go

from newllm.figures.style import COLOURS, finish


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
        figure.add_bar(x=means["arm"], y=means[f"{direction}_perplexity"], name=direction, marker_color=COLOURS[index])
    return finish(figure, "Facts asked forward and backward", "", "perplexity of the sentence", log_y=True)


def knowledge_gains(summary: pd.DataFrame) -> go.Figure:
    """By how much teaching raised the preference for the right name over wrong ones, asked in each direction.

    Parameters
    ----------
    summary
        Columns arm, and for forward and backward ``_gain``, ``_gain_low`` and ``_gain_high`` (nats).
    """
    figure = go.Figure()
    for index, direction in enumerate(("forward", "backward")):
        gain = summary[f"{direction}_gain"]
        figure.add_scatter(
            x=summary["arm"],
            y=gain,
            error_y={
                "array": summary[f"{direction}_gain_high"] - gain,
                "arrayminus": gain - summary[f"{direction}_gain_low"],
                "thickness": 1.5,
            },
            mode="markers",
            marker={"color": COLOURS[index], "size": 11},
            name=f"asked {direction}",
            # Both markers of an arm stand beside each other.
            offsetgroup=direction,
        )
    figure.update_layout(scattermode="group", scattergap=0.7)
    figure.add_hline(y=0, line_dash="dot")
    return finish(figure, "What teaching in one direction taught", "", "right name above wrong names: gain (nats)")
