"""The figure of quality against bytes, drawn where `newllm.figures.pareto` lays it out."""

import math
from collections.abc import Iterator

import pandas as pd
import plotly.graph_objects as go

from newllm.figures.pareto import BREAK, NARROW, Axis, Canvas, Layout, alike, lay_out
from newllm.figures.style import (
    CLEAR,
    COLOURS,
    INK,
    LEGEND_ROW,
    ROOMY_LEGEND,
    colours_of_encodings,
    finish,
    interval_bars,
    legend_rows,
)


def quality_against_bytes(
    summary: pd.DataFrame, canvas: Canvas | None = None, floor: pd.DataFrame | None = None
) -> go.Figure:
    """Bits per byte against the bytes a token leaves in the cache, with the front that nothing beats on both.

    Parameters
    ----------
    summary
        Columns arm, kv_bytes_per_token, bits_per_byte, and the ends of its interval, bits_per_byte_low and
        bits_per_byte_high (NaN where seeds tell none); seeds, of which one makes a hollow point; trained_otherwise,
        where it is there, marks rows that the front leaves out; encoding, in words, where it is there, gives points
        their colours. Rows that keep no cache, such as n-grams, are left out.
    canvas
        Size of a picture that stays as it is. Where omitted, the figure is as wide as its place, and names lie where
        they cover nothing in a narrow one: in a wider one points are further apart.
    floor
        Rows of counts of n-grams, arm and bits_per_byte: lines across, of those within the range of the points. An arm
        above the line tells nothing of memory.
    """
    summary = summary.dropna(subset=["kv_bytes_per_token"]).reset_index(drop=True)
    layout = lay_out(summary, canvas or NARROW)
    kept = summary["kv_bytes_per_token"]
    drawn = summary.assign(x=kept.where(kept > 0, 10**layout.places), y=layout.bits)
    # An interval of a point that is drawn elsewhere would be one of that place.
    drawn.loc[layout.beyond, ["bits_per_byte_low", "bits_per_byte_high"]] = math.nan
    figure = go.Figure()
    _draw_front(figure, drawn[layout.front])
    _draw_points(figure, drawn)
    if floor is not None:
        _draw_counts(figure, floor, layout.bits_axis)
    _write_names(figure, layout)
    if layout.bytes_axis.zero is not None:
        figure.add_vline(x=10 ** (layout.bytes_axis.zero + BREAK / 2), line_dash="dash", line_color=INK, line_width=1)
    figure = _say_what_is_drawn(figure, layout, has_intervals=bool(drawn["bits_per_byte_low"].notna().any()))
    return _set_size(figure, layout, width=None if canvas is None else canvas.width)


def _draw_front(figure: go.Figure, front: pd.DataFrame) -> None:
    """Draw the line below which nothing is."""
    front = front.sort_values("x").drop_duplicates("x")
    figure.add_scatter(
        x=front["x"],
        y=front["y"],
        mode="lines",
        line={"color": INK, "dash": "dot", "shape": "hv"},
        name="nothing is better on both",
        showlegend=len(front) > 1,  # of one arm alone there is no line
        hoverinfo="skip",
    )


def _draw_points(figure: go.Figure, drawn: pd.DataFrame) -> None:
    """Draw the points with their intervals."""
    for rows, name, colour_of_points, symbol in _points(drawn):
        figure.add_scatter(
            x=rows["x"],
            y=rows["y"],
            mode="markers",
            text=rows["arm"],
            customdata=rows[["kv_bytes_per_token", "bits_per_byte"]],
            hovertemplate="%{text}<br>%{customdata[0]:,.4g} bytes per token<br>"
            "%{customdata[1]:.3f} bits per byte<extra></extra>",
            marker={
                "size": 10,
                "color": colour_of_points,
                "symbol": symbol,
                "line_width": 2 * symbol.endswith("open"),
            },
            error_y=interval_bars(rows, "bits_per_byte", thickness=1.5),
            name=name,
        )


def _points(drawn: pd.DataFrame) -> Iterator[tuple[pd.DataFrame, str, str, str]]:
    """Give the points that look alike, with what the legend says of them, their colour and their symbol."""
    colours = colours_of_encodings(drawn)
    single, regular = drawn["seeds"] == 1, alike(drawn)
    kinds = (
        drawn["encoding"].where(drawn["encoding"].isin(list(colours)), "")
        if colours
        else pd.Series("", index=drawn.index)
    )
    for kind, colour_of_kind in (colours | {"": INK if colours else COLOURS[0]}).items():
        of_kind = kinds == kind
        for chosen, said, symbol in (
            (~single & regular, "" if kind else "mean over seeds", "circle"),
            (single & regular, "one seed", "circle-open"),
            (~single & ~regular, "trained otherwise", "diamond"),
            (single & ~regular, "trained otherwise, one seed", "diamond-open"),
        ):
            rows = drawn[chosen & of_kind]
            if len(rows):
                is_plain = kind or symbol.startswith("circle")
                yield rows, ": ".join(filter(None, [kind, said])), colour_of_kind if is_plain else COLOURS[4], symbol


def _draw_counts(figure: go.Figure, floor: pd.DataFrame, up: Axis) -> None:
    """Draw a line across for each n-gram order whose counts are within the range of the points."""
    for row in floor.to_dict("records"):
        if up.low < row["bits_per_byte"] < up.high:
            figure.add_hline(
                y=row["bits_per_byte"],
                line={"color": INK, "dash": "dash", "width": 1},
                annotation={"text": f"counts: {row['arm']}", "font_size": 11},
                annotation_position="top left",
            )


def _write_names(figure: go.Figure, layout: Layout) -> None:
    """Write the name of each point, and join it to the point where it lies further off."""
    shifts, joints = layout.names - layout.points, layout.joints - layout.points
    for index, name in enumerate(layout.lines):
        # A logarithmic axis places annotations by their power of ten.
        point = {"x": layout.places[index], "y": layout.bits[index]}
        if layout.joined[index]:
            # A line to the nearest edge of the name: an arrow without text, as the name's own starts at its middle.
            figure.add_annotation(
                **point,
                ax=joints[index][0],
                ay=joints[index][1],
                text="",
                arrowhead=0,
                arrowwidth=0.8,
                standoff=5,
                arrowcolor=INK,
            )
        figure.add_annotation(
            **point,
            xshift=shifts[index][0],
            yshift=-shifts[index][1],
            text="<br>".join(name),
            font_size=11,
            showarrow=False,
            bgcolor=CLEAR,
            borderpad=0,
        )


def _say_what_is_drawn(figure: go.Figure, layout: Layout, *, has_intervals: bool) -> go.Figure:
    """Give the figure its title, and its axes theirs with their ranges and ticks."""
    across, up = layout.bytes_axis, layout.bits_axis
    title = "Quality against memory: down and to the left is better"
    of_bytes = f"KV cache (bytes per token, measured{'' if across.zero is None else '; 0: a state of fixed size'})"
    of_bits = f"bits per byte, held out{' (95 % intervals over seeds)' if has_intervals else ''}"
    figure = finish(figure, title, of_bytes, of_bits, log_x=True)
    figure.update_xaxes(
        range=[across.low, across.high],
        tickvals=[10**place for place, _ in across.ticks],
        ticktext=[text for _, text in across.ticks],
        zeroline=False,
    )
    return figure.update_yaxes(range=[up.low, up.high])


def _set_size(figure: go.Figure, layout: Layout, width: int | None) -> go.Figure:
    """Give the figure its height and margins, and its legend the room above that it needs."""
    canvas = layout.canvas
    more = LEGEND_ROW * max(0, legend_rows(figure, canvas.width) - ROOMY_LEGEND)
    return figure.update_layout(
        width=width,
        height=canvas.height + more,
        margin={"l": canvas.left, "r": canvas.right, "t": canvas.top + more, "b": canvas.bottom, "autoexpand": False},
        # So many pixels below the upper edge, however high the picture is: the legend needs the rest of the margin.
        title={"y": 1 - 12 / (canvas.height + more), "yanchor": "top"},
        legend={"x": 0, "xref": "paper", "y": 1.01, "yref": "paper"},
    )
