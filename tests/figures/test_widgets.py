import ipywidgets
import numpy as np
import plotly.graph_objects as go

from newllm.data.facts import Fact
from newllm.figures import widgets


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


def test_a_written_fact_is_asked_of_every_model(monkeypatch):
    shown = []
    monkeypatch.setattr(widgets, "display", shown.append)
    monkeypatch.setattr(
        widgets,
        "sentence_perplexities",
        lambda model, tokenizer, fact: {"forward": model, "backward": len(fact.object)},
    )
    fact = Fact("capital", "France", "capital of", "Paris")
    box = widgets.fact_in_both_directions({"a": 2.0, "b": 3.0}, None, fact)
    subject, _, answer = box.children[0].children
    subject.value = "Norway"
    answer.value = "Oslo "
    assert shown[-1].layout.title.text.startswith("The capital of Norway is Oslo /")
    assert [list(bar.y) for bar in shown[-1].data] == [[2.0, 3.0], [4, 4]]
    subject.value = ""
    assert "must be words" in str(shown[-1].data)


def test_the_calculator_follows_its_controls(monkeypatch):
    shown = []
    monkeypatch.setattr(widgets, "display", shown.append)
    size, tokens, sequences, dtype = widgets.cache_calculator("tiny", 16, 1, "float32").children[0].children
    tokens.value = 32
    sequences.value = 4
    dtype.value = "bfloat16"
    after = dict(zip(shown[-1].data[0].y, shown[-1].data[0].x, strict=True))
    layers, keys_and_values, bytes_each = 2, 2 * 64, 2
    assert after["pythia"] == layers * keys_and_values * bytes_each * 32 * 4
    size.value = "70m"
    assert shown[-1].layout.title.text == "70m, 4 x 32 tokens, bfloat16"
