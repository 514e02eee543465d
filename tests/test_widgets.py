import ipywidgets
import numpy as np
import plotly.graph_objects as go

from newllm import widgets


def test_a_moved_control_draws_anew():
    drawn = []

    def draw(size):
        drawn.append(size)
        return go.Figure()

    control = ipywidgets.IntSlider(value=3)
    widgets.explorer(draw, size=control)
    control.value = 5
    assert drawn == [3, 5]


def test_alibi_explorer_follows_slope_and_length(monkeypatch):
    shown = []
    monkeypatch.setattr(widgets, "display", shown.append)
    slope, length = widgets.alibi_bias(0.25, 8).children[0].children
    length.value = 12
    slope.value = 0.5
    bias = np.array(shown[-1].data[0].z, dtype=float)
    assert bias.shape == (12, 12)
    assert bias[3, 1] == -1.0
    assert np.isnan(bias[1, 3])
