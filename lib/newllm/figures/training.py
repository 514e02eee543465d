"""Figures of training: OACD's terms and convergence, learning curves, learning rates."""

import numpy as np
import pandas as pd
import plotly.graph_objects as go
from numpy.typing import ArrayLike
from plotly.subplots import make_subplots

from newllm.figures.style import COLOURS, finish, lines


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
    figure.add_hline(y=100 * target, line_dash="dot", annotation_text="stops here")
    figure = finish(figure, "Convergence and effective rank", "iteration", "converged tokens (%)")
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
    return finish(figure, "Spectrum of the contexts", "singular value, by rank", "share of the sum (%)", log_y=True)


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
    return finish(figure, "Main training", "epoch", "loss (nats per token)").update_xaxes(dtick=1)


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
    for trace in figure.data:
        rows = means[means["arm"] == trace.name]
        trace.error_y = {"array": rows["max"] - rows["mean"], "arrayminus": rows["mean"] - rows["min"], "thickness": 1}
    title = "Held-out loss by learning rate: the best one should not stand at an end"
    return finish(figure, title, "learning rate", "loss, held out (nats per token)", log_x=True)
