"""Figures of what attention sees: biases, distances, slots, certificates."""

import textwrap
from collections.abc import Sequence

import numpy as np
import pandas as pd
import plotly.graph_objects as go
from numpy.typing import ArrayLike
from plotly.subplots import make_subplots

from newllm.figures.lines import lines
from newllm.figures.style import CLEAR, COLOURS, HEIGHT, INK, finish


def attention_biases(biases: dict[str, ArrayLike], limit: float = 2.0) -> go.Figure:
    """Heat maps of attention biases side by side: rows are queries, columns keys; what is hidden stays blank.

    Parameters
    ----------
    biases
        Bias (T, T) by title; -inf where a key is hidden.
    limit
        Size of the bias at which the colour saturates.
    """
    figure = make_subplots(
        cols=len(biases),
        subplot_titles=["<br>".join(textwrap.wrap(title, 20)) for title in biases],
        horizontal_spacing=0.08,
    )
    for column, bias in enumerate(biases.values(), start=1):
        numbers = np.asarray(bias, dtype=float)
        visible = np.where(np.isfinite(numbers), numbers, np.nan)
        figure.add_heatmap(
            z=visible,
            col=column,
            row=1,
            colorscale="Viridis",
            zmin=-limit,
            zmax=0,
            showscale=column == len(biases),
            colorbar={"title": "bias"},
            hovertemplate="query %{y}, key %{x}: %{z:.3f}<extra></extra>",
        )
        size = numbers.shape[0]
        # Right of this line lies the future.
        figure.add_scatter(
            x=[0.5, size - 0.5],
            y=[0.5, size - 0.5],
            mode="lines",
            line={"color": INK, "width": 1, "dash": "dot"},
            showlegend=False,
            hoverinfo="skip",
            col=column,
            row=1,
        )
    figure = finish(figure, "What each query may see, and at what cost", "key position", "query position")
    return figure.update_yaxes(autorange="reversed")


def certificate(checks: pd.DataFrame) -> go.Figure:
    """Largest change of a logit that no later token may change, check by check, beside the change it must see.

    Parameters
    ----------
    checks
        Columns model, name, change, power.
    """
    floor = 1e-18
    figure = go.Figure()
    for index, (model, rows) in enumerate(checks.groupby("model", sort=False)):
        colour = COLOURS[index % len(COLOURS)]
        for column, symbol, meaning in (("change", "circle", "forbidden"), ("power", "x-thin-open", "required")):
            figure.add_scatter(
                x=rows[column].clip(lower=floor),
                y=rows["name"],
                mode="markers",
                marker={"color": colour, "symbol": symbol, "size": 10},
                name=f"{model}: {meaning} change",
            )
    figure = finish(figure, "The causality certificate", "largest change (zero drawn at 1e-18)", "", log_x=True)
    return (
        figure.update_layout(height=HEIGHT + 120)
        .update_yaxes(autorange="reversed")
        .update_xaxes(dtick=3, tickformat=".0e")
    )


def score_by_distance(scores: pd.DataFrame) -> go.Figure:
    """Attention score of a query with an equal key, further and further back.

    Parameters
    ----------
    scores
        Columns encoding, distance (tokens), score.
    """
    figure = lines(scores, "distance", "score", "encoding").update_traces(mode="lines")
    title = "What a position encoding does to the score of a query with an equal key"
    return finish(figure, title, "distance (tokens)", "score, before the softmax")


def visible_slots(mask: ArrayLike, slots: Sequence[str]) -> go.Figure:
    """Which remembered vectors each position attends to.

    Parameters
    ----------
    mask
        True where the position (row) sees the slot (column), (T, slots).
    slots
        Name of each slot.
    """
    figure = go.Figure()
    figure.add_heatmap(
        z=np.asarray(mask, dtype=float),
        x=list(slots),
        colorscale=[[0, CLEAR], [1, COLOURS[0]]],
        showscale=False,
        xgap=1,
    )
    figure = finish(figure, "What a position attends to", "remembered context", "position (tokens)")
    return figure.update_yaxes(autorange="reversed")


def attended_tokens(position: int, chunk_size: int) -> go.Figure:
    """Draw after which tokens the contexts stand that a position of ``context-kv`` attends to.

    Parameters
    ----------
    position
        The token that attends, counted from 0.
    chunk_size
        Tokens of a chunk.
    """
    ends = [*range(chunk_size - 1, position, chunk_size), position]
    figure = go.Figure()
    figure.add_scatter(
        x=[0, position], y=[0, 0], mode="lines", line={"color": INK, "width": 1}, hoverinfo="skip", showlegend=False
    )
    for places, name, index in ((ends[:-1], "remembered context", 0), (ends[-1:], "its own context", 1)):
        figure.add_scatter(
            x=places, y=[0] * len(places), mode="markers", marker={"size": 11, "color": COLOURS[index]}, name=name
        )
    title = f"Position {position} attends to {len(ends)} of the {position + 1:,} contexts up to it"
    figure = finish(figure, title, "token", "").update_layout(height=240)
    return figure.update_yaxes(visible=False).update_xaxes(rangemode="tozero")


def contexts_over_tokens(contexts: Sequence[ArrayLike], tokens: Sequence[str]) -> go.Figure:
    """Draw the values of the contexts of recurrences side by side, token by token.

    Parameters
    ----------
    contexts
        Of each block, (T, P).
    tokens
        The T tokens, as texts.
    """
    figure = make_subplots(rows=len(contexts), shared_xaxes=True, vertical_spacing=0.04)
    places = list(range(len(tokens)))
    for number, values in enumerate(contexts, start=1):
        figure.add_heatmap(z=np.asarray(values).T, x=places, coloraxis="coloraxis", row=number, col=1)
    figure = finish(figure, "What each block holds after each token", "", "")
    names = [text.strip() or "·" for text in tokens]
    figure.update_xaxes(tickvals=places, ticktext=names, tickangle=-60, row=len(contexts), col=1)
    for number in range(1, len(contexts) + 1):
        figure.update_yaxes(title=f"block {number}", row=number, col=1)
    return figure.update_layout(coloraxis={"colorscale": "RdBu", "cmid": 0}, height=180 + 150 * len(contexts))
