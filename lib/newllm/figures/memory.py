"""Figures of what is kept: bytes by length, by token, by model."""

import itertools

import pandas as pd
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from newllm.figures.arm_words import arm_in_words
from newllm.figures.lines import lines
from newllm.figures.style import COLOURS, INK, finish, readable_bytes

# So far apart are the ends of an axis on which only powers of ten have room.
MANY_DECADES = 1_000
PRECISION_SYMBOLS = ("circle-open", "square-open", "diamond-open", "triangle-up-open", "x-open")


def against_context_length(frame: pd.DataFrame, column: str, title: str, label: str) -> go.Figure:
    """One quantity of several models over the length of the context, both axes logarithmic.

    Models of which it is the same at every length have one line, which names them all, arms in words.

    Parameters
    ----------
    frame
        Columns model, context (tokens) and ``column``.
    column
        What to draw.
    title
        The figure's title.
    label
        The axis title, with its unit.
    """
    named: dict[tuple[float, ...], list[str]] = {}
    for model, rows in frame.groupby("model", sort=False):
        named.setdefault((*rows["context"], *rows[column]), []).append(str(model))
    first = {models[0]: " and ".join(map(arm_in_words, models)) for models in named.values()}
    drawn = frame[frame["model"].isin(first)]
    figure = lines(drawn.assign(model=drawn["model"].map(first)), "context", column, "model")
    figure = finish(figure, title, "context (tokens)", label, log_x=True, log_y=True)
    figure.update_xaxes(tickvals=sorted(set(frame["context"])), tickformat=",", dtick=None)
    low, high = frame[column].min(), frame[column].max()
    # Over many decades the ticks within them would collide; small numbers have no prefix that everybody reads.
    return figure.update_yaxes(tickformat="~s" if low >= 1 else "~g", dtick=1 if high > MANY_DECADES * low else "D2")


def precision_against_bytes(table: pd.DataFrame) -> go.Figure:
    """Bits per byte of each model whose cache is kept in fewer and fewer bits, against the bytes that leaves.

    Parameters
    ----------
    table
        Columns arm, precision, bytes_per_token, bits_per_byte.
    """
    figure = lines(table, "bytes_per_token", "bits_per_byte", "arm")
    symbols = dict(zip(table["precision"].unique(), itertools.cycle(PRECISION_SYMBOLS), strict=False))
    for trace, (_, chosen) in zip(figure.data, table.groupby("arm", sort=False), strict=True):
        # Open, for eight bits, as floats or integers, leave nearly the same bytes.
        trace.update(marker={"size": 10, "symbol": list(chosen["precision"].map(symbols)), "line_width": 2})
        trace.update(text=chosen["precision"], hovertemplate="%{text}, %{x:,.0f} bytes: %{y:.3f}")
    for precision, symbol in symbols.items():
        marker = {"size": 10, "symbol": symbol, "color": INK, "line_width": 2}
        figure.add_scatter(x=[None], y=[None], mode="markers", marker=marker, name=precision)
    figure = finish(figure, "The same caches in fewer bits", "KV bytes a token", "bits per byte", log_x=True)
    low, high = table["bits_per_byte"].min(), table["bits_per_byte"].max()
    # A hundredth of a bit at least, so that nothing looks like much.
    room = max(0.15 * (high - low), 0.01)
    return figure.update_yaxes(range=[low - 2 * room, high + 2 * room], tickformat=".3~f")


def kept_by_token(entries: pd.DataFrame) -> go.Figure:
    """Draw what each model's cache still holds of each token: one small picture a model, all to the same scale.

    Parameters
    ----------
    entries
        Columns model, token, kind, values.
    """
    models = list(entries.groupby("model")["values"].sum().sort_values(ascending=False, kind="stable").index)
    columns = 4
    rows = -(-len(models) // columns)
    figure = make_subplots(
        rows=rows,
        cols=columns,
        subplot_titles=models,
        shared_xaxes="all",
        shared_yaxes="all",
        vertical_spacing=0.09,
        horizontal_spacing=0.03,
    )
    for index, (kind, of_kind) in enumerate(entries.groupby("kind", sort=False)):
        for first, (model, chosen) in enumerate(of_kind.groupby("model", sort=False)):
            place = models.index(model)
            figure.add_bar(
                x=chosen["token"],
                y=chosen["values"],
                width=1,
                name=kind,
                legendgroup=kind,
                showlegend=first == 0,
                marker={"color": COLOURS[index], "line_width": 0},
                row=place // columns + 1,
                col=place % columns + 1,
            )
    figure = finish(figure, "What is kept of each token", "", "")
    figure.update_layout(barmode="stack", height=140 * rows + 150, bargap=0)
    tallest = entries.groupby(["model", "token"])["values"].sum().max()
    figure.update_xaxes(range=[-0.5, entries["token"].max() + 0.5], nticks=4)
    figure.update_yaxes(range=[0, 1.05 * tallest])
    figure.update_xaxes(title="token", row=rows)
    return figure.update_yaxes(title="values", col=1)


def cache_sizes(table: pd.DataFrame) -> go.Figure:
    """Bytes that each model keeps, as bars from zero with their numbers beside them.

    Parameters
    ----------
    table
        Columns model, bytes and share (of the baseline's).
    """
    figure = go.Figure()
    figure.add_bar(
        x=table["bytes"],
        y=table["model"],
        orientation="h",
        marker_color=COLOURS[0],
        text=[
            f"{readable_bytes(number)} ({100 * share:.3g} %)" for number, share in table[["bytes", "share"]].to_numpy()
        ],
        textposition="outside",
        cliponaxis=False,
    )
    figure = finish(figure, "What decoding keeps", "KV cache (bytes)", "")
    # Room for the texts behind the longest bars.
    figure.update_xaxes(range=[0, 1.35 * table["bytes"].max()], exponentformat="SI")
    figure.update_layout(height=130 + 28 * len(table))
    return figure.update_yaxes(autorange="reversed")
