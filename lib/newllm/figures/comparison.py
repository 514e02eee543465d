"""Figures of comparisons: arms, positions, quality against bytes."""

import math
from collections.abc import Iterator, Sequence

import pandas as pd
import plotly.graph_objects as go

from newllm.evaluation.seed_intervals import seed_intervals
from newllm.figures.lines import lines
from newllm.figures.pareto import BREAK, NARROW, Canvas, alike, lay_out
from newllm.figures.style import (
    CLEAR,
    COLOURS,
    INK,
    LEGEND_ROW,
    ROOMY_LEGEND,
    colour,
    colours_of_encodings,
    finish,
    interval_bars,
    legend_rows,
    name_bars,
)


def position_perplexity(positions: pd.DataFrame, told: Sequence[str] | None = None) -> go.Figure:
    """Perplexity by the number of tokens that came before in the window.

    Parameters
    ----------
    positions
        Columns arm, start, end, perplexity; one row a band of positions, arm and seed.
    told
        The arms in colour where there are more than colours; None: all of them.
    """
    means = positions.groupby(["arm", "start", "end"], sort=False)[["perplexity"]].mean().reset_index()
    means["band"] = means["start"].astype(str) + "-" + means["end"].astype(str)
    figure = lines(means, "band", "perplexity", "arm", told=told)
    return finish(figure, "Perplexity by position in the window", "tokens before", "perplexity")


def arms(results: pd.DataFrame, metric: str, label: str) -> go.Figure:
    """Draw the mean of every arm as a bar from zero and every seed as a mark on it, the best first.

    Parameters
    ----------
    results
        Columns arm, seed and ``metric``.
    metric
        The column to draw.
    label
        The axis title, with its unit.
    """
    means = results.groupby("arm", sort=False)[metric].mean().sort_values()
    # An arm has the colour that its line has in other figures of the same results, where arms are not sorted.
    places = {arm: place for place, arm in enumerate(results["arm"].unique())}
    has_seeds = bool(results["arm"].duplicated().any())
    figure = go.Figure()
    figure.add_bar(
        x=means,
        y=means.index,
        orientation="h",
        marker_color=[colour(places[arm]) for arm in means.index],
        text=[f"{mean:,.4g}" for mean in means],
        textposition="inside",
        insidetextanchor="start",
        name="mean",
        showlegend=False,
    )
    if has_seeds:
        figure.add_scatter(
            x=results[metric],
            y=results["arm"],
            mode="markers",
            marker={"color": INK, "size": 6, "symbol": "line-ns-open"},
            text=[f"seed {seed}" for seed in results["seed"]],
            name="each seed",
            showlegend=False,
        )
    figure = finish(figure, f"{label}: mean of each arm, and every seed" if has_seeds else label, label, "")
    return name_bars(figure, means.index)


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
    across, up, width, canvas = layout.bytes_axis, layout.bits_axis, canvas and canvas.width, layout.canvas
    kept = summary["kv_bytes_per_token"]
    drawn = summary.assign(x=kept.where(kept > 0, 10**layout.places), y=layout.bits)
    figure = go.Figure()
    front = drawn[layout.front].sort_values("x").drop_duplicates("x")
    figure.add_scatter(
        x=front["x"],
        y=front["y"],
        mode="lines",
        line={"color": INK, "dash": "dot", "shape": "hv"},
        name="nothing is better on both",
        showlegend=len(front) > 1,  # of one arm alone there is no line
        hoverinfo="skip",
    )
    # An interval of a point that is drawn elsewhere would be one of that place.
    drawn.loc[layout.beyond, ["bits_per_byte_low", "bits_per_byte_high"]] = math.nan
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
    for row in [] if floor is None else floor.to_dict("records"):
        if up.low < row["bits_per_byte"] < up.high:
            figure.add_hline(
                y=row["bits_per_byte"],
                line={"color": INK, "dash": "dash", "width": 1},
                annotation={"text": f"counts: {row['arm']}", "font_size": 11},
                annotation_position="top left",
            )
    shifts, joints = layout.names - layout.points, layout.joints - layout.points
    for index, row in enumerate(drawn.to_dict("records")):
        # A logarithmic axis places annotations by their power of ten.
        point = {"x": layout.places[index], "y": row["y"]}
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
            text="<br>".join(layout.lines[index]),
            font_size=11,
            showarrow=False,
            bgcolor=CLEAR,
            borderpad=0,
        )
    if across.zero is not None:
        figure.add_vline(x=10 ** (across.zero + BREAK / 2), line_dash="dash", line_color=INK, line_width=1)
    title = "Quality against memory: down and to the left is better"
    of_bytes = f"KV cache (bytes per token, measured{'' if across.zero is None else '; 0: a state of fixed size'})"
    has_intervals = drawn["bits_per_byte_low"].notna().any()
    of_bits = f"bits per byte, held out{' (95 % intervals over seeds)' if has_intervals else ''}"
    figure = finish(figure, title, of_bytes, of_bits, log_x=True)
    more = LEGEND_ROW * max(0, legend_rows(figure, canvas.width) - ROOMY_LEGEND)
    figure.update_layout(
        width=width,
        height=canvas.height + more,
        margin={"l": canvas.left, "r": canvas.right, "t": canvas.top + more, "b": canvas.bottom, "autoexpand": False},
        # So many pixels below the upper edge, however high the picture is: the legend needs the rest of the margin.
        title={"y": 1 - 12 / (canvas.height + more), "yanchor": "top"},
        legend={"x": 0, "xref": "paper", "y": 1.01, "yref": "paper"},
    )
    figure.update_xaxes(
        range=[across.low, across.high],
        tickvals=[10**place for place, _ in across.ticks],
        ticktext=[text for _, text in across.ticks],
        zeroline=False,
    )
    return figure.update_yaxes(range=[up.low, up.high])


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


def extrapolation(frame: pd.DataFrame, trained_length: int) -> go.Figure:
    """Perplexity on windows longer than those of training: means over seeds, with their 95 % intervals.

    Parameters
    ----------
    frame
        Columns arm, seq_length, perplexity; one row a length, arm and seed.
    trained_length
        Where training ended, in tokens.
    """
    rows = []
    for length, group in frame.groupby("seq_length", sort=False):
        by_arm = {arm: list(seeds) for arm, seeds in group.groupby("arm", sort=False)["perplexity"]}
        for arm, interval in seed_intervals(by_arm, is_ratio=True).items():
            rows.append({"arm": arm, "seq_length": length} | interval.columns("perplexity"))
    means = pd.DataFrame(rows)
    figure = lines(means, "seq_length", "perplexity", "arm", has_interval=True)
    figure.add_vline(x=trained_length, line_dash="dot", annotation_text="trained up to here", line_color=INK)
    figure = finish(figure, "Beyond the training length", "window (tokens)", "perplexity")
    return figure.update_xaxes(tickvals=sorted(set(means["seq_length"])))
