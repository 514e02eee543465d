"""Figures of comparisons: arms, differences, positions, quality against bytes."""

import math
import textwrap
from typing import Any

import pandas as pd
import plotly.graph_objects as go

from newllm.evaluation.seed_intervals import seed_intervals
from newllm.figures.pareto import BREAK, NARROW, Canvas, alike, lay_out
from newllm.figures.style import CLEAR, COLOURS, INK, colour, finish, interval_bars, lines, name_bars


def position_perplexity(positions: pd.DataFrame) -> go.Figure:
    """Perplexity by the number of tokens that came before in the window.

    Parameters
    ----------
    positions
        Columns arm, start, end, perplexity; one row a band of positions, arm and seed.
    """
    means = positions.groupby(["arm", "start", "end"], sort=False)[["perplexity"]].mean().reset_index()
    means["band"] = means["start"].astype(str) + "-" + means["end"].astype(str)
    figure = lines(means, "band", "perplexity", "arm")
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


def differences(studies: pd.DataFrame, base: str) -> go.Figure:
    """Difference of each change from what it changes, with its interval over seeds and documents.

    Parameters
    ----------
    studies
        Rows of `newllm.analysis.studies.one_change_each`: columns study, change, difference (nats per token), and the
        ends of its interval, difference_low and difference_high.
    base
        What the differences are from, in words.

    Returns
    -------
    plotly.graph_objects.Figure
        The picture; without a row it says that there is no difference to show.
    """
    figure = go.Figure()
    if studies.empty:
        figure.add_annotation(text="no other arm to take a difference of", showarrow=False, xref="paper", yref="paper")
    for index, (study, rows) in enumerate(studies.groupby("study", sort=False)):
        figure.add_scatter(
            **_differences(rows, rows["change"]),
            marker={"color": COLOURS[index % len(COLOURS)], "size": 9},
            name=str(study),
            showlegend=False,
        )
    figure.add_vline(x=0, line_dash="dot", line_color=INK)
    title = "One change each: left is better (95 % over seeds and documents)"
    figure = finish(figure, title, "<br>".join(textwrap.wrap(f"nats per token from {base}, held out", 48)), "")
    figure.update_layout(height=180 + 34 * max(len(studies), 2))
    return figure.update_yaxes(autorange="reversed", automargin=True)


def _differences(rows: pd.DataFrame, labels: pd.Series) -> dict[str, Any]:
    """Place a point for each difference on the line of its label, with its interval."""
    bars = interval_bars(rows, "difference", thickness=2)
    return {"x": rows["difference"], "y": labels, "mode": "markers", "error_x": bars | {"width": 6}}


def quality_against_bytes(summary: pd.DataFrame, canvas: Canvas | None = None) -> go.Figure:
    """Bits per byte against the bytes a token leaves in the cache, with the front that nothing beats on both.

    Parameters
    ----------
    summary
        Columns arm, kv_bytes_per_token, bits_per_byte, and the ends of its interval, bits_per_byte_low and
        bits_per_byte_high (NaN where seeds tell none); seeds, of which one makes a hollow point; trained_otherwise,
        where it is there, marks rows that the front leaves out. Rows that keep no cache, such as n-grams, are left out.
    canvas
        Size of a picture that stays as it is. Where omitted, the figure is as wide as its place, and names lie where
        they cover nothing in a narrow one: in a wider one points are further apart.
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
    single, regular = drawn["seeds"] == 1, alike(drawn)
    # An interval of a point that is drawn elsewhere would be one of that place.
    drawn.loc[layout.beyond, ["bits_per_byte_low", "bits_per_byte_high"]] = math.nan
    for rows, name, symbol in (
        (drawn[~single & regular], "mean over seeds", "circle"),
        (drawn[single & regular], "one seed", "circle-open"),
        (drawn[~single & ~regular], "trained otherwise", "diamond"),
        (drawn[single & ~regular], "trained otherwise, one seed", "diamond-open"),
    ):
        if rows.empty:
            continue
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
                "color": COLOURS[0] if symbol.startswith("circle") else COLOURS[4],
                "symbol": symbol,
                "line_width": 2 * symbol.endswith("open"),
            },
            error_y=interval_bars(rows, "bits_per_byte", thickness=1.5),
            name=f"{name}, 95 % interval" if rows["bits_per_byte_low"].notna().any() else name,
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
    figure = finish(figure, title, of_bytes, "bits per byte, held out", log_x=True)
    figure.update_layout(
        width=width,
        height=canvas.height,
        margin={"l": canvas.left, "r": canvas.right, "t": canvas.top, "b": canvas.bottom, "autoexpand": False},
        # So many pixels below the upper edge, however high the picture is: the legend needs the rest of the margin.
        title={"y": 1 - 12 / canvas.height, "yanchor": "top"},
        legend={"x": 0, "xref": "paper", "y": 1.01, "yref": "paper"},
    )
    figure.update_xaxes(
        range=[across.low, across.high],
        tickvals=[10**place for place, _ in across.ticks],
        ticktext=[text for _, text in across.ticks],
        zeroline=False,
    )
    return figure.update_yaxes(range=[up.low, up.high])


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
