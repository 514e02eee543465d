"""Controls for notebooks: a hand on a parameter, a figure that follows."""

from collections.abc import Callable

import ipywidgets
import plotly.graph_objects as go
from IPython.display import display

from newllm import figures
from newllm.models.position import build_alibi_bias_causal


def explorer(draw: Callable[..., go.Figure], **controls: ipywidgets.Widget) -> ipywidgets.VBox:
    """Put controls above the figure that they draw.

    Parameters
    ----------
    draw
        Makes the figure; called with each control's value under the control's name.
    controls
        Widgets with a ``value``.
    """

    def show(**values: object) -> None:
        display(draw(**values))

    return ipywidgets.VBox([ipywidgets.HBox(list(controls.values())), ipywidgets.interactive_output(show, controls)])


def alibi_bias(slope: float, seq_len: int) -> ipywidgets.VBox:
    """Explore slope and length of the causal ALiBi bias, beside the one with rows and columns exchanged.

    Parameters
    ----------
    slope
        Slope to begin with.
    seq_len
        Number of tokens to begin with.
    """

    def draw(slope: float, seq_len: int) -> go.Figure:
        bias = build_alibi_bias_causal(seq_len, slope)
        return figures.attention_biases({"queries see the past": bias, "swapped: they see the future": bias.T})

    return explorer(
        draw,
        slope=ipywidgets.FloatLogSlider(
            value=slope, base=2, min=-8, max=0, step=1, description="slope", continuous_update=False
        ),
        seq_len=ipywidgets.IntSlider(value=seq_len, min=4, max=64, description="tokens", continuous_update=False),
    )
