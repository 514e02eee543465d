"""Controls and the figure below them, in this process and executed as a notebook's cells are."""

import asyncio
import base64
import time

import ipywidgets
import nbformat
import numpy as np
import plotly.graph_objects as go
import pytest
from nbclient import NotebookClient

from newllm.data.facts import Fact
from newllm.figures import widgets
from newllm.notebook.kernel import kernel_of_this_python

FIGURE = "application/vnd.plotly.v1+json"
WIDGET = "widgets.alibi_bias(0.0625, seq_len=24)"
# A cell takes a fraction of one; but other tests may be running on the machine.
WIDGET_SECONDS = 30


pytestmark = pytest.mark.usefixtures("figures_as_data")


def shown(box):
    """What stands below the controls: a figure's data and layout, or a text."""
    [output] = box.children[1].outputs
    return output["data"].get(FIGURE) or output["data"]["text/plain"]


def numbers(stored):
    """The numbers of an axis, as plotly stores them."""
    return np.frombuffer(base64.b64decode(stored["bdata"]), stored["dtype"])


def test_a_moved_control_draws_anew():
    drawn = []

    def draw(size):
        drawn.append(size)
        return go.Figure()

    control = ipywidgets.IntSlider(value=3)
    box = widgets.explorer(draw, size=control)
    control.value = 5
    assert drawn == [3, 5]
    assert "layout" in shown(box)


def test_alibi_explorer_follows_slope_and_length():
    box = widgets.alibi_bias(0.25, 8)
    slope, length = box.children[0].children
    length.value = 12
    slope.value = 0.5
    bias = numbers(shown(box)["data"][0]["z"]).reshape(12, 12)
    assert bias[3, 1] == -1.0
    assert np.isnan(bias[1, 3])


def test_a_written_fact_is_asked_of_every_model(monkeypatch):
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
    figure = shown(box)
    assert figure["layout"]["title"]["text"].startswith("The capital of Norway is Oslo /")
    assert [list(numbers(bar["y"])) for bar in figure["data"]] == [[2.0, 3.0], [4, 4]]
    subject.value = ""
    assert "must be words" in shown(box)


def test_the_calculator_follows_its_controls():
    box = widgets.cache_calculator("tiny", 16, 1, "float32")
    size, tokens, sequences, dtype = box.children[0].children
    tokens.value = 32
    sequences.value = 4
    dtype.value = "bfloat16"
    bars = shown(box)["data"][0]
    after = dict(zip(bars["y"], numbers(bars["x"]), strict=True))
    layers, keys_and_values, bytes_each = 2, 2 * 64, 2
    assert after["pythia"] == layers * keys_and_values * bytes_each * 32 * 4
    size.value = "70m"
    assert shown(box)["layout"]["title"]["text"] == "70m, 4 x 32 tokens, bfloat16"


def test_cells_with_a_widget_end():
    """A client without a time limit, as `newllm run` and `newllm refresh` are, waits for no answer of its own."""
    cells = [nbformat.v4.new_code_cell(source) for source in ("from newllm.figures import widgets", *[WIDGET] * 12)]
    client = NotebookClient(nbformat.v4.new_notebook(cells=cells), timeout=None, kernel_name="python3")
    hooks = []
    client.register_output_hook = lambda *hook: hooks.append(hook)

    async def execute() -> list[float]:
        seconds = []
        async with client.async_setup_kernel():
            for number, cell in enumerate(cells):
                started = time.monotonic()
                await asyncio.wait_for(client.async_execute_cell(cell, number), WIDGET_SECONDS if number else 300)
                seconds.append(time.monotonic() - started)
        return seconds

    with kernel_of_this_python():
        seconds = asyncio.run(execute())
    assert len(seconds) == len(cells)
    assert not hooks, "a widget captured what its cell displays"
    states = [state for state in client.widget_state.values() if state["_model_name"] == "OutputModel"]
    assert [FIGURE in state["outputs"][0]["data"] for state in states] == [True] * 12
