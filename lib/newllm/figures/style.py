"""The look that all figures share: colours, sizes, axes with their unit."""

import textwrap
from collections.abc import Iterable
from typing import Any

import pandas as pd
import plotly.graph_objects as go

from newllm.figures.arm_words import ENCODINGS, name_lines
from newllm.runs.pictures import PICTURE_WIDTH

# Colour-blind safe (Okabe and Ito 2008), the order in which series appear; black would be lost on a dark page.
COLOURS = ("#0072B2", "#E69F00", "#009E73", "#CC79A7", "#D55E00", "#56B4E9", "#B8A900", "#888888")
# What a verdict means, in pictures and tables: the two are told apart by the colour-blind, on white and on black.
BETTER, EQUAL, UNTOLD, WORSE = COLOURS[2], COLOURS[0], COLOURS[7], COLOURS[4]
DASHES = ("solid", "dot", "dash", "dashdot")
SYMBOLS = ("circle", "square", "diamond", "triangle-up")
HEIGHT = 420
# Pixels of a legend: of a row, of a letter, and of what stands beside a name.
LEGEND_ROW, LEGEND_LETTER, LEGEND_MARK = 19, 6.8, 45
LEGEND_SHARE = 0.96  # of the width of a picture
ROOMY_LEGEND = 2  # rows for which every picture has room
LONGEST_TITLE = 62  # characters of a line of a title, which a narrow page still shows whole

# Grey lines and letters, readable on white and on black, over whatever the page has as its background.
INK, FAINT, CLEAR = "#7f7f7f", "rgba(127,127,127,0.25)", "rgba(0,0,0,0)"
AXIS = {"gridcolor": FAINT, "linecolor": FAINT, "zerolinecolor": INK, "tickcolor": FAINT, "automargin": True}
# At the foot of the picture, below the axis and its title however high that is.
LEGEND = {
    "orientation": "h",
    "x": 0.02,
    "xref": "container",
    "y": 0,
    "yref": "container",
    "yanchor": "bottom",
    "bgcolor": CLEAR,
    "tracegroupgap": 0,
}
TEMPLATE = go.layout.Template(
    layout={
        "paper_bgcolor": CLEAR,
        "plot_bgcolor": CLEAR,
        "font": {"color": INK},
        "colorway": COLOURS,
        "xaxis": AXIS,
        "yaxis": AXIS,
        "title": {"font_size": 15, "x": 0.01, "xanchor": "left", "y": 1, "yanchor": "top"},
        "legend": LEGEND,
        "hoverlabel": {"align": "left"},
    }
)


def colour(index: int) -> str:
    """Return the colour of a series by its place."""
    return COLOURS[index % len(COLOURS)]


def dash(index: int) -> str:
    """Return the dashes of a line by its place: those of one colour differ."""
    return DASHES[index // len(COLOURS) % len(DASHES)]


def colours_of_encodings(summary: pd.DataFrame) -> dict[str, str]:
    """Give each position encoding of some arms its colour, the same in every picture; none where they have one alone.

    Parameters
    ----------
    summary
        Arms, with a column encoding, of `ENCODINGS` or empty, or without.
    """
    present = set(summary["encoding"]) & {*ENCODINGS} if "encoding" in summary else set()
    return {kind: colour(place) for place, kind in enumerate(ENCODINGS) if kind in present and len(present) > 1}


def finish(figure: go.Figure, title: str, x: str, y: str, *, log_x: bool = False, log_y: bool = False) -> go.Figure:
    """Give a figure the house's look: as wide as its place, on the page's own background, its legend below.

    Parameters
    ----------
    figure
        What was drawn.
    title, x, y
        Its title and those of its axes, with their units.
    log_x, log_y
        Whether an axis is logarithmic.
    """
    written = "<br>".join(textwrap.wrap(title, LONGEST_TITLE))
    # Room for a title of several lines, for the titles of small pictures, and for a legend of several rows.
    above = 44 + 20 * written.count("<br>") + 24 * bool(figure.layout.annotations)
    figure.update_layout(
        title_text=written,
        # The first of several lines stands half a line higher than a single one, above the edge.
        title_pad_t=24 if "<br>" in written else 12,
        template=TEMPLATE,
        height=HEIGHT + LEGEND_ROW * max(legend_rows(figure) - ROOMY_LEGEND, 0),
        autosize=True,
        margin={"l": 60, "r": 20, "t": above, "b": 50},
    )
    # Of a decade's ticks 1, 2 and 5 have labels: all nine would collide.
    for update, text, log in ((figure.update_xaxes, x, log_x), (figure.update_yaxes, y, log_y)):
        update(title=text, type="log" if log else None, exponentformat="SI")
        if log:
            update(dtick="D2", tickformat="~g")
    return figure


def say_where(figure: go.Figure, where: str) -> go.Figure:
    """Write below the title of a picture that stands alone what it was measured with.

    Parameters
    ----------
    figure
        A finished figure.
    where
        The text, the budget and the seeds, in words; as many letters as the picture is wide for.
    """
    title = figure.layout.title.text
    return figure.update_layout(title_text=f'{title}<br><span style="font-size:11px">{where}</span>')


def legend_rows(figure: go.Figure, width: int = PICTURE_WIDTH) -> int:
    """Estimate the rows of a legend.

    Entries are as wide as the longest of them, or, where all have groups, each as its own name.

    Parameters
    ----------
    figure
        What was drawn.
    width
        Of the picture, in pixels; where omitted, that of a narrow page.
    """
    shown = [trace for trace in figure.data if trace.showlegend is not False]
    widths = [LEGEND_MARK + LEGEND_LETTER * len(trace.name or "") for trace in shown]
    if not all(trace.legendgroup for trace in shown):
        widths = [max(widths, default=0)] * len(widths)
    rows, used = 1, 0.0
    for entry in widths:
        if used and used + entry > LEGEND_SHARE * width:
            rows, used = rows + 1, 0.0
        used += entry
    return rows


def interval_bars(rows: pd.DataFrame, of: str, *, thickness: float = 1) -> dict[str, Any]:
    """Draw the interval of a column as bars, from ``<of>_low`` to ``<of>_high``."""
    return {
        "array": rows[f"{of}_high"] - rows[of],
        "arrayminus": rows[of] - rows[f"{of}_low"],
        "thickness": thickness,
    }


def readable_bytes(number: float) -> str:
    """Write bytes with a binary unit: 3145728 is "3.0 MiB"."""
    for unit in ("bytes", "KiB", "MiB", "GiB"):
        if number < 1024:
            return f"{number:,.0f} {unit}" if unit == "bytes" else f"{number:,.1f} {unit}"
        number /= 1024
    return f"{number:,.1f} TiB"


def name_bars(figure: go.Figure, arms: Iterable[str], *, above: int = 130, row: int = 32) -> go.Figure:
    """Name level bars by their arms, the first on top, long names in several lines, and give each bar its height.

    Parameters
    ----------
    figure
        A finished figure, whose bars stand at the names of arms.
    arms
        These names, in the order of the bars.
    above
        Pixels that the picture needs beside its bars.
    row
        Pixels of a bar whose name is short.
    """
    names = list(dict.fromkeys(arms))
    written = [name_lines(name) for name in names]
    most = max(map(len, written), default=1)
    figure.update_layout(height=above + max(row, 15 * most + 4) * len(names))
    return figure.update_yaxes(
        autorange="reversed",
        categoryorder="array",
        categoryarray=names,
        tickvals=names,
        ticktext=["<br>".join(name) for name in written],
    )


def say_nothing(title: str, reason: str) -> go.Figure:
    """Make a picture that says why there is nothing to draw.

    Parameters
    ----------
    title
        Of the picture.
    reason
        What stands in it.
    """
    figure = go.Figure()
    figure.add_annotation(text=reason, showarrow=False, xref="paper", yref="paper")
    figure = finish(figure, title, "", "").update_layout(height=120)
    return figure.update_xaxes(visible=False).update_yaxes(visible=False)
