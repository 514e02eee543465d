"""Figures of recall: passages said again, pairs seen before, places in a chunk, contexts cut short."""

from collections.abc import Sequence

import pandas as pd
import plotly.graph_objects as go

from newllm.figures.differences import mark_far
from newllm.figures.lines import lines
from newllm.figures.pareto import far_above
from newllm.figures.style import COLOURS, INK, SYMBOLS, colour, finish, interval_bars, name_bars, say_nothing


def passage_gains(passages: pd.DataFrame, told: Sequence[str] | None = None, *, text: str = "") -> go.Figure:
    """Draw what the second copy of a passage gains over its first, by the distance between them.

    Parameters
    ----------
    passages
        Columns arm, seed, distance (tokens), gain (nats a token); without rows the picture says so. One distance is
        drawn as bars.
    told
        The arms in colour where there are more than colours; None: all of them.
    text
        What the passages are of, where the title should say it.
    """
    title = f"A passage{f' of {text}' if text else ''} said again: what its first copy is worth"
    if passages.empty:
        return say_nothing(title, "windows are too short to say a passage twice")
    means = passages.groupby(["arm", "distance"], sort=False, as_index=False)[["gain"]].mean()
    if means["distance"].nunique() == 1:
        ordered = means.sort_values("gain", ascending=False)
        figure = go.Figure()
        figure.add_bar(x=ordered["gain"], y=ordered["arm"], orientation="h", marker_color=COLOURS[0])
        said = f"gain after {ordered['distance'].iloc[0]:,} tokens (nats a token)"
        return name_bars(finish(figure, title, said, ""), ordered["arm"])
    figure = lines(means, "distance", "gain", "arm", told=told)
    figure = finish(figure, title, "distance (tokens)", "gain (nats a token)", log_x=True)
    figure.update_xaxes(tickvals=sorted(set(means["distance"])), dtick=None)
    return figure.add_hline(y=0, line_dash="dot", line_color=INK)


def recall_differences(differences: pd.DataFrame, baseline: str | None) -> go.Figure:
    """Draw by how much the loss of each arm is above the baseline's, on tokens that could be recalled and on others.

    Parameters
    ----------
    differences
        As `newllm.analysis.recall.recall_differences` makes them: columns arm, kind (what tokens), difference (nats a
        token), and the ends of its interval, difference_low and difference_high, NaN where seeds tell none.
    baseline
        The arm that differences are from; None where there is none, and then the picture says so.

    Returns
    -------
    plotly.graph_objects.Figure
        One row an arm. Where an arm is far worse than all others, its numbers stand at the right edge.
    """
    title = "Tokens that could be recalled: left is better"
    if differences.empty:
        return say_nothing(title, f"no other arm to set beside {baseline or 'a baseline'}")
    wide = differences.pivot_table("difference", index="arm", columns="kind", sort=False)
    far = far_above(wide.max(axis=1).to_numpy())
    figure = go.Figure()
    for index, (kind, rows) in enumerate(differences.groupby("kind", sort=False)):
        shown = rows[~rows["arm"].isin(wide.index[far])]
        figure.add_scatter(
            x=shown["difference"],
            y=shown["arm"],
            mode="markers",
            marker={"color": colour(index), "size": 8, "symbol": SYMBOLS[index % len(SYMBOLS)]},
            error_x=interval_bars(shown, "difference"),
            name=str(kind),
            legendgroup=str(kind),
        )
    figure = finish(figure, title, f"loss: nats per token from {baseline}", "")
    figure = name_bars(figure, differences["arm"], above=150, row=26)
    numbers = {str(arm): ", ".join(f"{each:+.2f}" for each in row.dropna()) for arm, row in wide[far].iterrows()}
    return mark_far(figure, numbers)


def places_in_period(places: pd.DataFrame) -> go.Figure:
    """Draw the loss by the place of a token in the chunk of the methods that have one, with its interval over windows.

    Parameters
    ----------
    places
        As `newllm.analysis.recall.by_parts_of_period` gives them: columns arm, seed, place (tokens after the start of a
        chunk), loss (nats a token) and half of its interval; without rows the picture says so.
    """
    title = "The loss by the place in a chunk"
    if places.empty:
        return say_nothing(title, "none of these arms has a chunk that fits twice into a window")
    means = places.groupby(["arm", "place"], sort=False, as_index=False)[["loss"]].mean()
    figure = lines(means, "place", "loss", "arm")
    for trace, (_, rows) in zip(figure.data, places.groupby("arm", sort=False), strict=True):
        # Seeds read the same windows, so they do not narrow what these leave open.
        trace.error_y = {"array": rows.groupby("place")["half"].mean(), "thickness": 1}
    return finish(figure, title, "place in the chunk (tokens)", "loss (nats a token)")


def lost_by_truncation(truncation: pd.DataFrame) -> go.Figure:
    """Draw what a model loses when it sees its last tokens alone, by how many these are, with its interval.

    Parameters
    ----------
    truncation
        As `newllm.experiments.recall_study.cut_contexts` makes it: columns arm, context (tokens), lost (nats a token
        above the whole window) with lost_low and lost_high; without rows the picture says so.
    """
    title = "How much of the past is used: the same tokens, contexts cut short"
    cut = truncation[truncation["lost"].notna()]
    if cut.empty:
        return say_nothing(title, "neither weights nor published scores of these arms are here")
    figure = lines(cut, "context", "lost", "arm", has_interval=True)
    figure = finish(
        figure, title, "last tokens that are seen", "loss above the whole window (nats a token)", log_x=True
    )
    figure.update_xaxes(tickvals=sorted(set(cut["context"])), dtick=None)
    return figure.add_hline(y=0, line_dash="dot", line_color=INK)
