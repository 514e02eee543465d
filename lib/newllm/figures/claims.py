"""The figure of what became of claims: every difference that a claim rests on, under its claim."""

import textwrap
from collections.abc import Hashable, Mapping
from typing import Any

import pandas as pd
import plotly.graph_objects as go

from newllm.evaluation import verdicts
from newllm.figures.arm_words import arm_in_words
from newllm.figures.style import BETTER, EQUAL, INK, UNTOLD, WORSE, finish, interval_bars, say_nothing

# In the order of the legend; what else a verdict says stands with the claim.
VERDICT_COLOURS = {
    verdicts.HOLDS: BETTER,
    verdicts.FAILS: WORSE,
    verdicts.DEPENDS: EQUAL,
    verdicts.UNTOLD: UNTOLD,
}
TITLE = "What claims rest on: differences with their 95 % intervals"

# Nats per token. Most differences are far below: beside the largest they would lie on one another.
LIMIT = 0.15

# Characters of a line.
LONGEST_HEADING, LONGEST_NAMES = 80, 42

# Pixels.
LINE, GAP, ABOVE_CLAIM = 14, 7, 12
LEFT, RIGHT, TOP, BOTTOM = 256, 100, 40, 176

Row = dict[Hashable, Any]


def claims(compared: pd.DataFrame) -> go.Figure:
    """Every difference that a claim rests on with its interval, under its claim, coloured by the claim's verdict.

    A difference beyond `LIMIT` is a triangle at the edge; like every other it is written on the right.

    Parameters
    ----------
    compared
        Rows of `newllm.analysis.claims.comparisons_table`: columns claim, words, verdict, arm, base, where, difference
        (nats per token), difference_low, difference_high and knows_seeds, without which a point is hollow.

    Returns
    -------
    plotly.graph_objects.Figure
        Claims that rest on no difference are in the table alone.
    """
    if compared.empty:
        return say_nothing(TITLE, "no claim rests on a published difference")
    figure = go.Figure()
    # Where most were measured is said once, with the axis.
    usual = str(compared["where"].mode().iloc[0])
    rows: list[Row] = []
    down = 0.0
    for _, group in compared.groupby("claim", sort=False):
        members = group.to_dict("records")
        heading = textwrap.wrap("{claim}  {words}: {verdict}".format_map(members[0]), LONGEST_HEADING)
        down += ABOVE_CLAIM
        _write(figure, down, f"<b>{'<br>'.join(heading)}</b>", x=0, xshift=4 - LEFT, yanchor="top")
        down += LINE * len(heading) + GAP
        for row in members:
            names = _names(row, usual)
            rows.append(row | {"y": down + LINE * len(names) / 2, "names": "<br>".join(names)})
            half = (row["difference_high"] - row["difference_low"]) / 2
            _write(figure, rows[-1]["y"], f"{row['difference']:+.3f} ± {half:.3f}", x=1, xshift=6, yanchor="middle")
            down += LINE * len(names) + GAP
        # A line of its own for each claim crosses no heading.
        zero = {"y0": rows[-len(members)]["y"] - LINE, "y1": down, "x0": 0, "x1": 0}
        figure.add_shape(type="line", line={"dash": "dot", "color": INK, "width": 1.5}, **zero)
    _draw(figure, pd.DataFrame(rows))
    of_axis = f"nats per token, on {usual}<br>where nothing else is said; left: the first is better"
    figure = finish(figure, TITLE, of_axis, "")
    figure.update_layout(
        height=down + TOP + BOTTOM,
        margin={"l": LEFT, "r": RIGHT, "t": TOP, "b": BOTTOM, "autoexpand": False},
    )
    figure.update_xaxes(range=[-1.1 * LIMIT, 1.1 * LIMIT], zeroline=False, dtick=0.1, title_font_size=12)
    return figure.update_yaxes(
        range=[down, 0],
        tickvals=[row["y"] for row in rows],
        ticktext=[row["names"] for row in rows],
        tickfont_size=11,
        showgrid=False,
        zeroline=False,
        automargin=False,
    )


def _names(row: Mapping[Hashable, Any], usual: str) -> list[str]:
    """Write what is compared in as few lines as it needs, and where, if that is not the usual place."""
    arm, base = arm_in_words(row["arm"]), f"from {arm_in_words(row['base'])}"
    together = f"{arm} {base}"
    names = [together] if len(together) <= LONGEST_NAMES else [arm, base]
    return names if row["where"] == usual else [*names, f"({row['where']})"]


def _write(figure: go.Figure, y: float, text: str, **place: Any) -> None:
    """Write at a height of the rows, beside the picture."""
    figure.add_annotation(
        y=y, yref="y", xref="paper", xanchor="left", align="left", text=text, font_size=11, showarrow=False, **place
    )


def _draw(figure: go.Figure, rows: pd.DataFrame) -> None:
    """Draw the points of each verdict; of all four there is a sign in the legend, as of the kinds of points."""
    beyond = (rows["difference"].abs() > LIMIT).rename("beyond")
    plain = rows["verdict"].map(_plain)
    for verdict, colour in VERDICT_COLOURS.items():
        for (of_seeds, outside), chosen in rows[plain == verdict].groupby(["knows_seeds", beyond]):
            kind = "" if of_seeds else "-open"
            figure.add_scatter(
                x=chosen["difference"].clip(-LIMIT, LIMIT),
                y=chosen["y"],
                mode="markers",
                marker={
                    "color": colour,
                    "size": 9,
                    "symbol": [_symbol(number) + kind for number in chosen["difference"]],
                    "line_width": 0 if of_seeds else 2,
                },
                error_x=None if outside else interval_bars(chosen, "difference", thickness=2) | {"width": 4},
                text=chosen["names"],
                customdata=chosen["difference"],
                hovertemplate="%{text}<br>%{customdata:+.3f} nats per token<extra></extra>",
                showlegend=False,
            )
        _sign(figure, verdict, colour, "circle")
    if not rows["knows_seeds"].all():
        _sign(figure, "hollow: one seed, which tells nothing", INK, "circle-open")
    if beyond.any():
        _sign(figure, "beyond the axis", INK, "triangle-right")


def _plain(verdict: str) -> str:
    return next(plain for plain in VERDICT_COLOURS if verdict.startswith(plain))


def _symbol(difference: float) -> str:
    return "circle" if abs(difference) <= LIMIT else "triangle-left" if difference < 0 else "triangle-right"


def _sign(figure: go.Figure, name: str, colour: str, symbol: str) -> None:
    """Put a sign into the legend that stands at no point."""
    figure.add_scatter(
        x=[None], y=[None], mode="markers", marker={"color": colour, "size": 9, "symbol": symbol}, name=name
    )
