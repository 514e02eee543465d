"""Figures of recall: passages said again, pairs seen before, places in a chunk."""

import pandas as pd
import plotly.graph_objects as go

from newllm.figures.style import COLOURS, INK, colour, finish, lines, name_bars


def passage_gains(passages: pd.DataFrame) -> go.Figure:
    """Draw what the second copy of a passage gains over its first, by the distance between them.

    Parameters
    ----------
    passages
        Columns arm, seed, distance (tokens), gain (nats a token); without rows the picture says so. One distance is
        drawn as bars.
    """
    title = "A passage said again: what its first copy is worth"
    if passages.empty:
        return _nothing(title, "windows are too short to say a passage twice")
    means = passages.groupby(["arm", "distance"], sort=False, as_index=False)[["gain"]].mean()
    if means["distance"].nunique() == 1:
        ordered = means.sort_values("gain", ascending=False)
        figure = go.Figure()
        figure.add_bar(x=ordered["gain"], y=ordered["arm"], orientation="h", marker_color=COLOURS[0])
        said = f"gain after {ordered['distance'].iloc[0]:,} tokens (nats a token)"
        return name_bars(finish(figure, title, said, ""), ordered["arm"])
    figure = finish(
        lines(means, "distance", "gain", "arm"), title, "distance (tokens)", "gain (nats a token)", log_x=True
    )
    figure.update_xaxes(tickvals=sorted(set(means["distance"])), dtick=None)
    return figure.add_hline(y=0, line_dash="dot", line_color=INK)


def recallable_tokens(tokens: pd.DataFrame) -> go.Figure:
    """Draw the loss on tokens that complete a pair seen before, beside their controls and all others, arm by arm.

    Parameters
    ----------
    tokens
        Columns arm, seed, kind (hits, misses, others), loss (nats a token).
    """
    names = {"hits": "pair seen before", "misses": "same pair, another end", "others": "all other tokens"}
    means = tokens.groupby(["arm", "kind"], sort=False, as_index=False)[["loss"]].mean()
    figure = go.Figure()
    for index, (kind, name) in enumerate(names.items()):
        rows = means[means["kind"] == kind]
        figure.add_bar(x=rows["loss"], y=rows["arm"], orientation="h", name=name, marker_color=colour(index))
    figure = finish(figure, "Tokens that could be recalled", "loss (nats a token)", "")
    return name_bars(figure, means["arm"], above=190, row=60)


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
        return _nothing(title, "none of these arms has a chunk that fits twice into a window")
    means = places.groupby(["arm", "place"], sort=False, as_index=False)[["loss"]].mean()
    figure = lines(means, "place", "loss", "arm")
    for trace, (_, rows) in zip(figure.data, places.groupby("arm", sort=False), strict=True):
        # Seeds read the same windows, so they do not narrow what these leave open.
        trace.error_y = {"array": rows.groupby("place")["half"].mean(), "thickness": 1}
    return finish(figure, title, "place in the chunk (tokens)", "loss (nats a token)")


def _nothing(title: str, reason: str) -> go.Figure:
    figure = go.Figure()
    figure.add_annotation(text=reason, showarrow=False, xref="paper", yref="paper")
    figure = finish(figure, title, "", "").update_layout(height=120)
    return figure.update_xaxes(visible=False).update_yaxes(visible=False)
