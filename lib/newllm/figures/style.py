"""The look that all figures share: colours, sizes, axes with their unit."""

import pandas as pd
import plotly.graph_objects as go

# Colour-blind safe (Okabe and Ito 2008), the order in which series appear.
COLOURS = ("#0072B2", "#E69F00", "#009E73", "#CC79A7", "#D55E00", "#56B4E9", "#F0E442", "#000000")
HEIGHT = 420
BYTES_TITLE = "KV cache (bytes per token, measured; 0: a state of fixed size)"


def finish(figure: go.Figure, title: str, x: str, y: str, *, log_x: bool = False, log_y: bool = False) -> go.Figure:
    """Give a figure the house's look."""
    figure.update_layout(
        title=title,
        template="plotly_white",
        height=HEIGHT,
        width=820,
        margin={"l": 70, "r": 30, "t": 60, "b": 55},
    )
    figure.update_xaxes(title=x, type="log" if log_x else None, exponentformat="power")
    figure.update_yaxes(title=y, type="log" if log_y else None, exponentformat="power")
    return figure


def lines(frame: pd.DataFrame, x: str, y: str, by: str, *, error: str | None = None) -> go.Figure:
    """Draw one line for each value of ``by``, in the order of appearance."""
    figure = go.Figure()
    for index, (name, rows) in enumerate(frame.groupby(by, sort=False)):
        figure.add_scatter(
            x=rows[x],
            y=rows[y],
            name=str(name),
            mode="lines+markers",
            line_color=COLOURS[index % len(COLOURS)],
            error_y={"array": rows[error], "thickness": 1} if error else None,
        )
    return figure


def readable_bytes(number: float) -> str:
    """Write bytes with a binary unit: 3145728 is "3.0 MiB"."""
    for unit in ("bytes", "KiB", "MiB", "GiB"):
        if number < 1024:
            return f"{number:,.0f} {unit}" if unit == "bytes" else f"{number:,.1f} {unit}"
        number /= 1024
    return f"{number:,.1f} TiB"
