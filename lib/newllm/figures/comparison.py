"""Figures of comparisons: arms, positions, windows longer than those of training."""

from collections.abc import Sequence

import pandas as pd
import plotly.graph_objects as go

from newllm.evaluation.seed_intervals import seed_intervals
from newllm.figures.lines import lines
from newllm.figures.style import INK, colour, finish, name_bars


def position_perplexity(positions: pd.DataFrame, told: Sequence[str] | None = None) -> go.Figure:
    """Perplexity by the number of tokens that came before in the window.

    Parameters
    ----------
    positions
        Columns arm, start, end, perplexity; one row a band of positions, arm and seed.
    told
        The arms in colour where there are more than colours; None: all of them.
    """
    means = positions.groupby(["arm", "start", "end"], sort=False)[["perplexity"]].mean().reset_index()
    means["band"] = means["start"].astype(str) + "-" + means["end"].astype(str)
    figure = lines(means, "band", "perplexity", "arm", told=told)
    return finish(figure, "Perplexity by position in the window", "tokens before", "perplexity")


def arms(results: pd.DataFrame, metric: str, label: str) -> go.Figure:
    """Draw the mean of every arm as a bar from zero and every seed as a mark on it, the best first.

    Parameters
    ----------
    results
        Columns arm, seed and ``metric``.
    metric
        The column to draw.
    label
        The axis title, with its unit.
    """
    means = results.groupby("arm", sort=False)[metric].mean().sort_values()
    # An arm has the colour that its line has in other figures of the same results, where arms are not sorted.
    places = {arm: place for place, arm in enumerate(results["arm"].unique())}
    has_seeds = bool(results["arm"].duplicated().any())
    figure = go.Figure()
    figure.add_bar(
        x=means,
        y=means.index,
        orientation="h",
        marker_color=[colour(places[arm]) for arm in means.index],
        text=[f"{mean:,.4g}" for mean in means],
        textposition="inside",
        insidetextanchor="start",
        name="mean",
        showlegend=False,
    )
    if has_seeds:
        figure.add_scatter(
            x=results[metric],
            y=results["arm"],
            mode="markers",
            marker={"color": INK, "size": 6, "symbol": "line-ns-open"},
            text=[f"seed {seed}" for seed in results["seed"]],
            name="each seed",
            showlegend=False,
        )
    figure = finish(figure, f"{label}: mean of each arm, and every seed" if has_seeds else label, label, "")
    return name_bars(figure, means.index)


def extrapolation(frame: pd.DataFrame, trained_length: int) -> go.Figure:
    """Perplexity on windows longer than those of training: means over seeds, with their 95 % intervals.

    Parameters
    ----------
    frame
        Columns arm, seq_length, perplexity; one row a length, arm and seed.
    trained_length
        Where training ended, in tokens.
    """
    rows = []
    for length, group in frame.groupby("seq_length", sort=False):
        by_arm = {arm: list(seeds) for arm, seeds in group.groupby("arm", sort=False)["perplexity"]}
        for arm, interval in seed_intervals(by_arm, is_ratio=True).items():
            rows.append({"arm": arm, "seq_length": length} | interval.columns("perplexity"))
    means = pd.DataFrame(rows)
    figure = lines(means, "seq_length", "perplexity", "arm", has_interval=True)
    figure.add_vline(x=trained_length, line_dash="dot", annotation_text="trained up to here", line_color=INK)
    figure = finish(figure, "Beyond the training length", "window (tokens)", "perplexity")
    return figure.update_xaxes(tickvals=sorted(set(means["seq_length"])))
