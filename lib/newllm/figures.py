"""One plotly figure a function: a data frame in, a figure out.

Arms, losses and encodings keep one colour order, and every axis says its unit.
"""

from collections.abc import Sequence

import numpy as np
import pandas as pd
import plotly.graph_objects as go
from numpy.typing import ArrayLike
from plotly.subplots import make_subplots

from newllm.evaluation.statistics import mean_interval
from newllm.pareto import BREAK, alike, lay_out

# Colour-blind safe (Okabe and Ito 2008), the order in which series appear.
COLOURS = ("#0072B2", "#E69F00", "#009E73", "#CC79A7", "#D55E00", "#56B4E9", "#F0E442", "#000000")
HEIGHT = 420
BYTES_TITLE = "KV cache (bytes per token, measured; 0: a state of fixed size)"


def _finish(figure: go.Figure, title: str, x: str, y: str, *, log_x: bool = False, log_y: bool = False) -> go.Figure:
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


def _lines(frame: pd.DataFrame, x: str, y: str, by: str, *, error: str | None = None) -> go.Figure:
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


def loss_terms(history: pd.DataFrame) -> go.Figure:
    """Both terms of the OACD loss over the iterations.

    Parameters
    ----------
    history
        Columns iteration, distance_term, centroid_term, loss.
    """
    figure = go.Figure()
    names = {"distance_term": "distance term", "centroid_term": "centroid term", "loss": "loss"}
    for index, (column, name) in enumerate(names.items()):
        figure.add_scatter(x=history["iteration"], y=history[column], name=name, line_color=COLOURS[index])
    return _finish(figure, "The two terms of the OACD loss", "iteration", "value")


def convergence(history: pd.DataFrame, target: float) -> go.Figure:
    """Share of tokens whose context has settled, and effective rank, over the iterations.

    Parameters
    ----------
    history
        Columns iteration, convergence_rate (0 to 1), effective_rank (dimensions).
    target
        Share at which training stops.
    """
    figure = make_subplots(specs=[[{"secondary_y": True}]])
    figure.add_scatter(
        x=history["iteration"], y=100 * history["convergence_rate"], name="converged tokens", line_color=COLOURS[0]
    )
    figure.add_scatter(
        x=history["iteration"],
        y=history["effective_rank"],
        name="effective rank",
        line_color=COLOURS[1],
        secondary_y=True,
    )
    figure.add_hline(y=100 * target, line_dash="dot", annotation_text="stops here")
    figure = _finish(figure, "Convergence and effective rank", "iteration", "converged tokens (%)")
    figure.update_yaxes(range=[0, 103], secondary_y=False)
    return figure.update_yaxes(title="effective rank (dimensions)", showgrid=False, secondary_y=True)


def spectrum(values: dict[str, ArrayLike]) -> go.Figure:
    """Singular values of contexts, as shares of their sum, largest first.

    Parameters
    ----------
    values
        Singular values (min(rows, P),) by name.
    """
    figure = go.Figure()
    for index, (name, numbers) in enumerate(values.items()):
        shares = np.sort(np.asarray(numbers, dtype=float))[::-1]
        figure.add_scatter(
            x=np.arange(1, shares.size + 1), y=100 * shares / shares.sum(), name=name, line_color=COLOURS[index]
        )
    return _finish(figure, "Spectrum of the contexts", "singular value, by rank", "share of the sum (%)", log_y=True)


def training_curves(history: pd.DataFrame) -> go.Figure:
    """Training and held-out loss of each arm over the epochs, the mean over seeds.

    Parameters
    ----------
    history
        Columns arm, seed, epoch, train_loss, validation_loss (nats per token).
    """
    figure = go.Figure()
    means = history.groupby(["arm", "epoch"], sort=False, as_index=False)[["train_loss", "validation_loss"]].mean()
    for index, (arm, rows) in enumerate(means.groupby("arm", sort=False)):
        colour = COLOURS[index % len(COLOURS)]
        figure.add_scatter(
            x=rows["epoch"], y=rows["validation_loss"], name=f"{arm}, held out", line_color=colour, legendgroup=arm
        )
        figure.add_scatter(
            x=rows["epoch"],
            y=rows["train_loss"],
            name=f"{arm}, training",
            line={"color": colour, "dash": "dot"},
            legendgroup=arm,
        )
    return _finish(figure, "Main training", "epoch", "loss (nats per token)").update_xaxes(dtick=1)


def learning_rates(records: pd.DataFrame) -> go.Figure:
    """Held-out loss of each arm over its learning rates, the mean over seeds with every seed's range.

    Parameters
    ----------
    records
        Columns arm, learning_rate, validation_loss (nats per token); one row a learning rate, arm and seed.
    """
    groups = records.groupby(["arm", "learning_rate"], sort=False)["validation_loss"]
    means = groups.agg(["mean", "min", "max"]).reset_index().sort_values("learning_rate")
    figure = _lines(means, "learning_rate", "mean", "arm")
    for trace in figure.data:
        rows = means[means["arm"] == trace.name]
        trace.error_y = {"array": rows["max"] - rows["mean"], "arrayminus": rows["mean"] - rows["min"], "thickness": 1}
    title = "Held-out loss by learning rate: the best one should not stand at an end"
    return _finish(figure, title, "learning rate", "loss, held out (nats per token)", log_x=True)


def position_perplexity(positions: pd.DataFrame) -> go.Figure:
    """Perplexity by the number of tokens that came before in the window.

    Parameters
    ----------
    positions
        Columns arm, start, end, perplexity; one row a band of positions, arm and seed.
    """
    means = positions.groupby(["arm", "start", "end"], sort=False)[["perplexity"]].mean().reset_index()
    means["band"] = means["start"].astype(str) + "-" + means["end"].astype(str)
    figure = _lines(means, "band", "perplexity", "arm")
    return _finish(figure, "Perplexity by position in the window", "tokens before", "perplexity")


def arms(results: pd.DataFrame, metric: str, label: str) -> go.Figure:
    """Every seed of every arm as a dot, the mean of each arm as a bar beside the name.

    Parameters
    ----------
    results
        Columns arm, seed and ``metric``.
    metric
        The column to draw.
    label
        The axis title, with its unit.
    """
    order = results.groupby("arm")[metric].mean().sort_values().index
    figure = go.Figure()
    for index, arm in enumerate(order):
        rows = results[results["arm"] == arm]
        colour = COLOURS[index % len(COLOURS)]
        figure.add_scatter(
            x=rows[metric],
            y=[arm] * len(rows),
            mode="markers",
            marker={"color": colour, "size": 9, "opacity": 0.7},
            text=[f"seed {seed}" for seed in rows["seed"]],
            showlegend=False,
        )
        figure.add_scatter(
            x=[rows[metric].mean()],
            y=[arm],
            mode="markers",
            marker={"color": colour, "symbol": "line-ns-open", "size": 26, "line_width": 3},
            showlegend=False,
        )
    figure = _finish(figure, f"{label}: every seed, and the mean of each arm", label, "")
    return figure.update_yaxes(autorange="reversed")


def differences(studies: pd.DataFrame, base: str) -> go.Figure:
    """Difference of each change from what it changes, with its intervals over windows and over seeds.

    Parameters
    ----------
    studies
        Rows of `newllm.studies.one_change_each`: columns study, change, difference (nats per token), and the ends of
        its intervals, difference_low and _high over windows, difference_over_seeds_low and _high over seeds.
    base
        What the differences are from, in words.
    """
    figure = go.Figure()
    for index, (study, rows) in enumerate(studies.groupby("study", sort=False)):
        for kind, marker, thickness, width in (("windows", "circle", 4, 0), ("seeds", "line-ns-open", 1, 6)):
            over = "difference" if kind == "windows" else "difference_over_seeds"
            figure.add_scatter(
                x=rows["difference"],
                y=rows["change"],
                mode="markers",
                marker={"color": COLOURS[index % len(COLOURS)], "symbol": marker, "size": 9},
                error_x={
                    "array": rows[f"{over}_high"] - rows["difference"],
                    "arrayminus": rows["difference"] - rows[f"{over}_low"],
                    "thickness": thickness,
                    "width": width,
                },
                name=f"{study}, 95 % over {kind}",
                showlegend=False,
            )
    figure.add_vline(x=0, line_dash="dot", annotation_text=f"as good as {base}")
    title = "One change each: left is better (95 %: thick over windows, thin over seeds)"
    figure = _finish(figure, title, f"difference from {base} (nats per token, held out)", "")
    return figure.update_yaxes(autorange="reversed", automargin=True)


def quality_against_bytes(summary: pd.DataFrame) -> go.Figure:
    """Bits per byte against the bytes a token leaves in the cache, with the front that nothing beats on both.

    Parameters
    ----------
    summary
        Columns arm, kv_bytes_per_token, bits_per_byte, and the ends of its interval, bits_per_byte_low and
        bits_per_byte_high (NaN for one seed); trained_otherwise, where it is there, marks rows that the front leaves
        out.
    """
    layout = lay_out(summary)
    across, up, canvas = layout.bytes_axis, layout.bits_axis, layout.canvas
    kept = summary["kv_bytes_per_token"]
    drawn = summary.assign(x=kept.where(kept > 0, 10**layout.places))
    figure = go.Figure()
    front = drawn[layout.front].sort_values("x").drop_duplicates("x")
    figure.add_scatter(
        x=front["x"],
        y=front["bits_per_byte"],
        mode="lines",
        line={"color": "#999999", "dash": "dot", "shape": "hv"},
        name="nothing is better on both",
        hoverinfo="skip",
    )
    single, regular = drawn["bits_per_byte_low"].isna(), alike(drawn)
    for rows, name, symbol in (
        (drawn[~single & regular], "mean over seeds, 95 % interval", "circle"),
        (drawn[single & regular], "one seed", "circle-open"),
        (drawn[~single & ~regular], "trained otherwise", "diamond"),
        (drawn[single & ~regular], "trained otherwise, one seed", "diamond-open"),
    ):
        if rows.empty:
            continue
        figure.add_scatter(
            x=rows["x"],
            y=rows["bits_per_byte"],
            mode="markers",
            text=rows["arm"],
            customdata=rows["kv_bytes_per_token"],
            hovertemplate="%{text}<br>%{customdata:,.4g} bytes per token<br>%{y:.3f} bits per byte<extra></extra>",
            marker={
                "size": 10,
                "color": COLOURS[0] if symbol.startswith("circle") else COLOURS[4],
                "symbol": symbol,
                "line_width": 2 * symbol.endswith("open"),
            },
            error_y={
                "array": rows["bits_per_byte_high"] - rows["bits_per_byte"],
                "arrayminus": rows["bits_per_byte"] - rows["bits_per_byte_low"],
                "thickness": 1.5,
            },
            name=name,
        )
    shifts, joints = layout.names - layout.points, layout.joints - layout.points
    for index, row in enumerate(drawn.to_dict("records")):
        # A logarithmic axis places annotations by their power of ten.
        point = {"x": layout.places[index], "y": row["bits_per_byte"]}
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
                arrowcolor="#999999",
            )
        figure.add_annotation(
            **point,
            xshift=shifts[index][0],
            yshift=-shifts[index][1],
            text=row["arm"],
            font_size=11,
            showarrow=False,
            bgcolor="rgba(255,255,255,0.6)",
            borderpad=0,
        )
    if across.zero is not None:
        figure.add_vline(x=10 ** (across.zero + BREAK / 2), line_dash="dash", line_color="#999999", line_width=1)
    title = "Quality against memory: down and to the left is better"
    figure = _finish(figure, title, BYTES_TITLE, "bits per byte, held out", log_x=True)
    figure.update_layout(
        width=canvas.width,
        height=canvas.height,
        margin={"l": canvas.left, "r": canvas.right, "t": canvas.top, "b": canvas.bottom, "autoexpand": False},
        title={"y": 0.975, "yanchor": "top"},
        legend={"orientation": "h", "y": 1.01, "yanchor": "bottom"},
    )
    figure.update_xaxes(
        range=[across.low, across.high],
        tickvals=[10**place for place, _ in across.ticks],
        ticktext=[text for _, text in across.ticks],
        zeroline=False,
    )
    return figure.update_yaxes(range=[up.low, up.high])


def attention_biases(biases: dict[str, ArrayLike], limit: float = 2.0) -> go.Figure:
    """Heat maps of attention biases side by side: rows are queries, columns keys; what is hidden stays white.

    Parameters
    ----------
    biases
        Bias (T, T) by title; -inf where a key is hidden.
    limit
        Size of the bias at which the colour saturates.
    """
    figure = make_subplots(cols=len(biases), subplot_titles=list(biases), horizontal_spacing=0.08)
    for column, bias in enumerate(biases.values(), start=1):
        numbers = np.asarray(bias, dtype=float)
        visible = np.where(np.isfinite(numbers), numbers, np.nan)
        figure.add_heatmap(
            z=visible,
            col=column,
            row=1,
            colorscale="RdBu",
            zmin=-limit,
            zmax=limit,
            showscale=column == len(biases),
            colorbar={"title": "bias"},
            hovertemplate="query %{y}, key %{x}: %{z:.3f}<extra></extra>",
        )
        size = numbers.shape[0]
        # Right of this line lies the future.
        figure.add_scatter(
            x=[0.5, size - 0.5],
            y=[0.5, size - 0.5],
            mode="lines",
            line={"color": "black", "width": 1, "dash": "dot"},
            showlegend=False,
            hoverinfo="skip",
            col=column,
            row=1,
        )
    figure = _finish(figure, "What each query may see, and at what cost", "key position", "query position")
    return figure.update_yaxes(autorange="reversed")


def certificate(checks: pd.DataFrame) -> go.Figure:
    """Largest change of a logit that no later token may change, check by check, beside the change it must see.

    Parameters
    ----------
    checks
        Columns model, name, change, power.
    """
    floor = 1e-18
    figure = go.Figure()
    for index, (model, rows) in enumerate(checks.groupby("model", sort=False)):
        colour = COLOURS[index % len(COLOURS)]
        for column, symbol, meaning in (("change", "circle", "forbidden"), ("power", "x-thin-open", "required")):
            figure.add_scatter(
                x=rows[column].clip(lower=floor),
                y=rows["name"],
                mode="markers",
                marker={"color": colour, "symbol": symbol, "size": 10},
                name=f"{model}: {meaning} change",
            )
    figure = _finish(figure, "The causality certificate", "largest change (zero drawn at 1e-18)", "", log_x=True)
    return figure.update_layout(height=HEIGHT + 120).update_yaxes(autorange="reversed", automargin=True)


def against_context_length(frame: pd.DataFrame, column: str, title: str, label: str) -> go.Figure:
    """One quantity of several models over the length of the context, both axes logarithmic.

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
    figure = _lines(frame, "context", column, "model")
    figure = _finish(figure, title, "context (tokens)", label, log_x=True, log_y=True)
    figure.update_xaxes(tickvals=sorted(set(frame["context"])), tickformat=",")
    return figure.update_yaxes(tickformat="~g")


def extrapolation(frame: pd.DataFrame, trained_length: int) -> go.Figure:
    """Perplexity on windows longer than those of training: means over seeds, with 95 % intervals.

    Parameters
    ----------
    frame
        Columns arm, seq_length, perplexity; one row a length, arm and seed.
    trained_length
        Where training ended, in tokens.
    """
    rows = []
    for (arm, length), group in frame.groupby(["arm", "seq_length"], sort=False):
        interval = mean_interval(group["perplexity"])
        rows.append((arm, length, interval.mean, interval.high - interval.mean))
    means = pd.DataFrame(rows, columns=["arm", "seq_length", "perplexity", "error"])
    figure = _lines(means, "seq_length", "perplexity", "arm", error="error")
    figure.add_vline(x=trained_length, line_dash="dot", annotation_text="trained up to here")
    figure = _finish(figure, "Beyond the training length", "window (tokens)", "perplexity", log_y=True)
    return figure.update_xaxes(tickvals=sorted(set(means["seq_length"])))


def score_by_distance(scores: pd.DataFrame) -> go.Figure:
    """Attention score of a query with an equal key, further and further back.

    Parameters
    ----------
    scores
        Columns encoding, distance (tokens), score.
    """
    figure = _lines(scores, "distance", "score", "encoding").update_traces(mode="lines")
    title = "What a position encoding does to the score of a query with an equal key"
    return _finish(figure, title, "distance (tokens)", "score, before the softmax")


def directions(results: pd.DataFrame) -> go.Figure:
    """Forward and backward perplexity of facts, arm by arm.

    Parameters
    ----------
    results
        Columns arm, forward_perplexity, backward_perplexity; one row an arm and seed.
    """
    means = results.groupby("arm", sort=False, as_index=False)[["forward_perplexity", "backward_perplexity"]].mean()
    figure = go.Figure()
    for index, direction in enumerate(("forward", "backward")):
        figure.add_bar(x=means["arm"], y=means[f"{direction}_perplexity"], name=direction, marker_color=COLOURS[index])
    return _finish(figure, "Facts asked forward and backward", "", "perplexity of the sentence", log_y=True)


def visible_slots(mask: ArrayLike, slots: Sequence[str]) -> go.Figure:
    """Which remembered vectors each position attends to.

    Parameters
    ----------
    mask
        True where the position (row) sees the slot (column), (T, slots).
    slots
        Name of each slot.
    """
    figure = go.Figure()
    figure.add_heatmap(
        z=np.asarray(mask, dtype=float),
        x=list(slots),
        colorscale=[[0, "#FFFFFF"], [1, COLOURS[0]]],
        showscale=False,
        xgap=1,
    )
    figure = _finish(figure, "What a position attends to", "remembered context", "position (tokens)")
    return figure.update_yaxes(autorange="reversed")


def knowledge_gains(summary: pd.DataFrame) -> go.Figure:
    """By how much teaching raised the preference for the right name over wrong ones, asked in each direction.

    Parameters
    ----------
    summary
        Columns arm, and for forward and backward ``_gain``, ``_gain_low`` and ``_gain_high`` (nats).
    """
    figure = go.Figure()
    for index, direction in enumerate(("forward", "backward")):
        gain = summary[f"{direction}_gain"]
        figure.add_scatter(
            x=summary["arm"],
            y=gain,
            error_y={
                "array": summary[f"{direction}_gain_high"] - gain,
                "arrayminus": gain - summary[f"{direction}_gain_low"],
                "thickness": 1.5,
            },
            mode="markers",
            marker={"color": COLOURS[index], "size": 11},
            name=f"asked {direction}",
            # Both markers of an arm stand beside each other.
            offsetgroup=direction,
        )
    figure.update_layout(scattermode="group", scattergap=0.7)
    figure.add_hline(y=0, line_dash="dot")
    return _finish(figure, "What teaching in one direction taught", "", "right name above wrong names: gain (nats)")


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
    figure = _finish(figure, "What is kept of each token", "", "")
    figure.update_layout(barmode="stack", height=140 * rows + 150, bargap=0, legend={"orientation": "h", "y": -0.15})
    tallest = entries.groupby(["model", "token"])["values"].sum().max()
    figure.update_xaxes(range=[-0.5, entries["token"].max() + 0.5], nticks=4)
    figure.update_yaxes(range=[0, 1.05 * tallest])
    figure.update_xaxes(title="token", row=rows)
    return figure.update_yaxes(title="values", col=1)


def cache_sizes(table: pd.DataFrame) -> go.Figure:
    """Bytes that each model keeps, as bars on a logarithmic axis.

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
            f"{_readable_bytes(number)} ({100 * share:.3g} %)" for number, share in table[["bytes", "share"]].to_numpy()
        ],
        textposition="outside",
        cliponaxis=False,
    )
    figure = _finish(figure, "What decoding keeps", "KV cache (bytes)", "", log_x=True)
    low, high = np.log10([table["bytes"].min(), table["bytes"].max()])
    # Room for the texts; the range of a logarithmic axis is given in powers of ten.
    figure.update_xaxes(range=[low - 0.5, high + 0.3 * max(high - low, 1)])
    return figure.update_yaxes(autorange="reversed", automargin=True)


def _readable_bytes(number: float) -> str:
    """Write bytes with a binary unit: 3145728 is "3.0 MiB"."""
    for unit in ("bytes", "KiB", "MiB", "GiB"):
        if number < 1024:
            return f"{number:,.0f} {unit}" if unit == "bytes" else f"{number:,.1f} {unit}"
        number /= 1024
    return f"{number:,.1f} TiB"
