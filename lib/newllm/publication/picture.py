"""The picture of quality against bytes for a page, as the numbers that its template draws as SVG."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd

from newllm.figures.pareto import BREAK, LINE_HEIGHT, Canvas, Layout, front_corners, lay_out
from newllm.figures.style import colours_of_encodings

# Of a point, and of one that was trained otherwise.
CIRCLE, DIAMOND = "\N{BLACK CIRCLE}", "\N{BLACK DIAMOND}"
# Pixels from the middle of each to its edge, which hide a shorter bar.
REACH = {CIRCLE: 6.0, DIAMOND: 8.5}


@dataclass(frozen=True)
class Dot:
    """A point of the picture, in pixels from the upper left corner of its area, its colour, and the lines of its name.

    Attributes
    ----------
    mark
        `CIRCLE` or `DIAMOND`.
    colour
        Of its encoding; empty where points are not told apart by it.
    """

    x: float
    y: float
    low: float | None
    high: float | None
    name_x: float
    name_y: float
    joint_x: float
    joint_y: float
    joined: bool
    mark: str
    colour: str
    name: tuple[str, ...]


def picture_of(summary: pd.DataFrame, canvas: Canvas | None = None) -> dict[str, Any]:
    """Say what the template ``picture.html`` draws, beside the name and the rows: layout, dots, key and front.

    Parameters
    ----------
    summary
        Rows as `newllm.figures.pareto.lay_out` takes them.
    canvas
        The picture's size; the usual one where omitted.
    """
    layout, colours = lay_out(summary, canvas), colours_of_encodings(summary)
    dots = _dots(summary, layout, colours)
    marks = {kind: "".join(sorted({dot.mark for dot in dots if dot.colour == colours[kind]})) for kind in colours}
    return {
        "layout": layout,
        "break": None if layout.bytes_axis.zero is None else layout.bytes_axis.zero + BREAK / 2,
        "dots": dots,
        "bars": _said_of_bars(dots),
        "colours": {kind: (colour, marks[kind]) for kind, colour in colours.items()},
        "line_height": LINE_HEIGHT,
        "front": " ".join(f"{x:.1f},{y:.1f}" for x, y in front_corners(layout.points[layout.front])),
    }


def _dots(summary: pd.DataFrame, layout: Layout, colours: Mapping[str, str]) -> list[Dot]:
    _, height = layout.canvas.area
    dots = []
    for place, row in enumerate(summary.to_dict("records")):
        has_interval = not pd.isna(row["bits_per_byte_low"]) and not layout.beyond[place]
        low, high = (
            float((1 - layout.bits_axis.share(row[f"bits_per_byte_{end}"])) * height) if has_interval else None
            for end in ("low", "high")
        )
        (x, y), (name_x, name_y), (joint_x, joint_y) = (
            (float(pixels[place][0]), float(pixels[place][1]))
            for pixels in (layout.points, layout.names, layout.joints)
        )
        # The baseline of the first line, as far above the middle as the others reach below.
        name_y += 4 - LINE_HEIGHT / 2 * (len(layout.lines[place]) - 1)
        joined, name = bool(layout.joined[place]), layout.lines[place]
        colour = colours.get(str(row.get("encoding")), "")
        mark = DIAMOND if row.get("trained_otherwise") else CIRCLE
        dots.append(Dot(x, y, low, high, name_x, name_y, joint_x, joint_y, joined, mark, colour, name))
    return dots


def _said_of_bars(dots: Sequence[Dot]) -> str:
    """Say what bars are, and whether points hide them; nothing where there are none."""
    seen = [
        max(dot.low - dot.y, dot.y - dot.high) > REACH[dot.mark]
        for dot in dots
        if dot.low is not None and dot.high is not None
    ]
    if not seen:
        return ""
    if not any(seen):
        return "No bars are seen, for all 95 % intervals over seeds are shorter than the points."
    hidden = "" if all(seen) else "; where none is seen, it is shorter than the point"
    return f"Bars: 95 % intervals over seeds{hidden}."
