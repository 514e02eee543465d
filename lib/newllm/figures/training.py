"""Figures of training: OACD's terms and convergence, learning curves, learning rates."""

from collections.abc import Sequence

import numpy as np
import pandas as pd
import plotly.graph_objects as go
from numpy.typing import ArrayLike
from plotly.subplots import make_subplots

from newllm.figures.arm_words import arm_in_words
from newllm.figures.lines import add_other_lines, in_colour, lines
from newllm.figures.style import COLOURS, INK, colour, dash, finish, name_bars


def loss_terms(history: pd.DataFrame, centroid_weight: float) -> go.Figure:
    """Both terms of the OACD loss over the iterations, as they add up to it.

    Parameters
    ----------
    history
        Columns iteration, distance_term, centroid_term, loss.
    centroid_weight
        By which the centroid term is in the loss.
    """
    figure = go.Figure()
    parts = {
        "distance term": history["distance_term"],
        f"centroid term times its weight of {centroid_weight:g}": centroid_weight * history["centroid_term"],
        "loss, their sum": history["loss"],
    }
    for index, (name, values) in enumerate(parts.items()):
        figure.add_scatter(x=history["iteration"], y=values, name=name, line_color=colour(index))
    return finish(figure, "The two terms of the OACD loss", "iteration", "value")


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
    figure.add_hline(
        y=100 * target,
        line_dash="dot",
        line_color=INK,
        annotation_text="training stops here",
        annotation_position="top",
    )
    figure = finish(figure, "Convergence and effective rank", "iteration", "converged tokens (%)")
    # Above the target there is room for its words, and no curve.
    figure.update_yaxes(range=[0, 110], secondary_y=False)
    return figure.update_yaxes(
        title="effective rank (dimensions)", showgrid=False, tickmode="auto", tickformat="d", secondary_y=True
    )


def converged_tokens(histories: pd.DataFrame, target: float) -> go.Figure:
    """Share of tokens whose context has settled over the iterations, for several trainings.

    Parameters
    ----------
    histories
        Columns recurrence (what is trained), iteration, convergence_rate (0 to 1).
    target
        Share at which training stops.
    """
    percent = histories.assign(percent=100 * histories["convergence_rate"])
    figure = lines(percent, "iteration", "percent", "recurrence").update_traces(mode="lines")
    figure.add_hline(y=100 * target, line_dash="dot", line_color=INK)
    figure = finish(figure, "Converged tokens, and where training stops", "iteration", "converged tokens (%)")
    return figure.update_yaxes(range=[0, 103])


def recurrence_at_pass(spectra: pd.DataFrame, contexts: pd.DataFrame, iteration: int) -> go.Figure:
    """Draw the spectrum of the contexts of one pass, beside a sample of them in a plane; the axes are those of all.

    Parameters
    ----------
    spectra
        Columns iteration, rank, share (of the sum of the singular values).
    contexts
        Columns iteration, x, y.
    iteration
        The pass.
    """
    figure = make_subplots(cols=2, subplot_titles=["spectrum", "contexts, widest directions"])
    values = spectra[spectra["iteration"] == iteration]
    places = contexts[contexts["iteration"] == iteration]
    figure.add_scatter(x=values["rank"], y=100 * values["share"], mode="lines", line_color=COLOURS[0], showlegend=False)
    figure.add_scatter(
        x=places["x"],
        y=places["y"],
        mode="markers",
        marker={"size": 4, "color": COLOURS[1], "opacity": 0.7},
        showlegend=False,
        row=1,
        col=2,
    )
    figure = finish(figure, f"After pass {iteration}", "", "")
    figure.update_xaxes(title="singular value, by rank", row=1, col=1)
    figure.update_yaxes(title="share of the sum (%)", range=[0, 105 * spectra["share"].max()], row=1, col=1)
    for update, column in ((figure.update_xaxes, "x"), (figure.update_yaxes, "y")):
        # Most of all passes: what lies far out in one of them would leave no room for the others.
        low, high = contexts[column].quantile([0.01, 0.99])
        margin = 0.1 * (high - low)
        update(title="", range=[low - margin, high + margin], row=1, col=2)
    return figure


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
            x=np.arange(1, shares.size + 1), y=100 * shares / shares.sum(), name=name, line_color=colour(index)
        )
    figure = finish(figure, "Spectrum of the contexts", "singular value, by rank", "share of the sum (%)")
    return figure.update_yaxes(rangemode="tozero")


def training_curves(history: pd.DataFrame, told: Sequence[str] | None = None) -> go.Figure:
    """Training and held-out loss of each arm over the passes, the mean over seeds; dots where there is one loss each.

    Parameters
    ----------
    history
        Columns arm, seed, epoch, train_loss, validation_loss (nats per token); an epoch may be a part of a pass.
    told
        The arms in colour where there are more than colours; None: all of them. Of the others the held-out loss is
        drawn.
    """
    means = history.groupby(["arm", "epoch"], sort=False, as_index=False)[["train_loss", "validation_loss"]].mean()
    if not means["arm"].duplicated().any():
        return _last_losses(means)
    figure = go.Figure()
    coloured = in_colour(means["arm"], told)
    add_other_lines(figure, means[~means["arm"].isin(coloured)], "epoch", "validation_loss", "arm")
    for index, arm in enumerate(coloured):
        rows, words = means[means["arm"] == arm], arm_in_words(arm)
        figure.add_scatter(
            x=rows["epoch"],
            y=rows["validation_loss"],
            name=words,
            line={"color": colour(index), "dash": dash(index)},
            mode="lines+markers",
            legendgroup=arm,
        )
        figure.add_scatter(
            x=rows["epoch"],
            y=rows["train_loss"],
            name=f"{words}, training",
            line={"color": colour(index), "dash": "dot", "width": 1},
            mode="lines",
            legendgroup=arm,
            showlegend=False,
        )
    figure = finish(
        figure, "Main training: held out (thick) and training (thin)", "passes over the text", "loss (nats per token)"
    )
    return figure.update_xaxes(dtick=1 if means["epoch"].max() > 2 else None)


def _last_losses(means: pd.DataFrame) -> go.Figure:
    """Draw one held-out loss an arm as dots, each on a line of its own."""
    ordered = means.sort_values("validation_loss")
    figure = go.Figure()
    figure.add_scatter(
        x=ordered["validation_loss"], y=ordered["arm"], mode="markers", marker={"color": COLOURS[0], "size": 8}
    )
    figure = finish(figure, "Main training: one pass over the text", "loss, held out (nats per token)", "")
    return name_bars(figure, ordered["arm"])


def learning_rates(records: pd.DataFrame) -> go.Figure:
    """Held-out loss of each arm over its learning rates, the mean over seeds with every seed's range.

    Parameters
    ----------
    records
        Columns arm, learning_rate, validation_loss (nats per token); one row a learning rate, arm and seed.
    """
    groups = records.groupby(["arm", "learning_rate"], sort=False)["validation_loss"]
    means = groups.agg(["mean", "min", "max"]).reset_index().sort_values("learning_rate")
    figure = lines(means, "learning_rate", "mean", "arm")
    for trace, (_, rows) in zip(figure.data, means.groupby("arm", sort=False), strict=True):
        trace.error_y = {"array": rows["max"] - rows["mean"], "arrayminus": rows["mean"] - rows["min"], "thickness": 1}
    title = "Held-out loss by learning rate: the best one should not stand at an end"
    finish(figure, title, "learning rate", "loss, held out (nats per token)", log_x=True)
    return figure.update_xaxes(tickvals=sorted(set(means["learning_rate"])), dtick=None)
