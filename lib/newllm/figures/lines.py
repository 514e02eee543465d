"""Lines by arms: in colours of their own where there are colours enough, else a few of them over the others in grey."""

from collections.abc import Iterable, Sequence

import pandas as pd
import plotly.graph_objects as go

from newllm.figures.arm_words import arm_in_words
from newllm.figures.style import COLOURS, colour, dash, interval_bars

# The last colour is a grey, which beside lines that are not told apart would look like one of them.
MOST_TOLD = len(COLOURS) - 1
OTHERS = "other arms"
OTHER_LINES = "rgba(127,127,127,0.5)"
LAST_RANK = 2000  # of an entry of a legend; plotly's own is 1000


def lines(
    frame: pd.DataFrame,
    x: str,
    y: str,
    by: str,
    *,
    has_interval: bool = False,
    told: Sequence[str] | None = None,
) -> go.Figure:
    """Draw one line for each value of a column, in the order of appearance.

    Parameters
    ----------
    frame
        The points, in the order of each line.
    x, y
        Columns of their places.
    by
        The column that tells lines apart; the name of an arm is written in words.
    has_interval
        Whether ``y`` has one, in ``<y>_low`` and ``<y>_high``, to be drawn as bars.
    told
        The lines in colour where there are more than colours, as for `in_colour`; the others are grey.
    """
    figure = go.Figure()
    coloured = in_colour(frame[by], told)
    add_other_lines(figure, frame[~frame[by].isin(coloured)], x, y, by)
    for index, name in enumerate(coloured):
        rows = frame[frame[by] == name]
        figure.add_scatter(
            x=rows[x],
            y=rows[y],
            name=arm_in_words(str(name)),
            mode="lines+markers",
            line={"color": colour(index), "dash": dash(index)},
            error_y=interval_bars(rows, y) if has_interval else None,
            legendgroup=str(name),
        )
    return figure


def in_colour(names: Iterable[str], told: Sequence[str] | None) -> list[str]:
    """Return which lines of a picture have colours of their own, in the order of their colours.

    Parameters
    ----------
    names
        Of all lines, in the order of appearance.
    told
        Those that tell most, in the order of their colours; None: all of them.

    Returns
    -------
    list of str
        All names where there are colours enough, or where none of them is told; else those that are told.
    """
    present = list(dict.fromkeys(names))
    if told is None or len(present) <= len(COLOURS):
        return present
    return [name for name in told if name in present] or present


def add_other_lines(figure: go.Figure, frame: pd.DataFrame, x: str, y: str, by: str) -> None:
    """Draw lines that are not told apart, thin and grey, with one entry in the legend; a hand on one reads its name.

    Parameters
    ----------
    figure
        What they are added to, before the lines that lie on them.
    frame
        Their rows, with the columns ``x``, ``y`` and ``by``.
    x, y, by
        As for `lines`.
    """
    for index, (name, rows) in enumerate(frame.groupby(by, sort=False)):
        figure.add_scatter(
            x=rows[x],
            y=rows[y],
            name=OTHERS,
            mode="lines",
            line={"color": OTHER_LINES, "width": 1},
            hovertemplate=f"%{{x}}, %{{y:.4g}}<extra>{arm_in_words(str(name))}</extra>",
            legendgroup=OTHERS,
            showlegend=index == 0,
            legendrank=LAST_RANK,
        )
