"""Controls for notebooks: a hand on a parameter, a figure that follows."""

from collections.abc import Callable, Mapping
from typing import Any

import ipywidgets
import pandas as pd
import plotly.graph_objects as go
import torch
from transformers import PreTrainedModel, PreTrainedTokenizerFast

from newllm import figures
from newllm.data.facts import Fact
from newllm.evaluation.calculator import calculate
from newllm.evaluation.reversal import DIRECTIONS, sentence_perplexities
from newllm.models import sizes
from newllm.models.position import build_alibi_bias_causal

DTYPES = ("float32", "bfloat16", "float16")


WIDGET = "application/vnd.jupyter.widget-view+json"


class Explorer(ipywidgets.VBox):
    """Controls above what they draw; without a kernel, and in a report, what they drew at first."""

    def _repr_mimebundle_(self, **kwargs: Any) -> dict[str, Any]:
        drawn: dict[str, Any] = self.children[1].outputs[0]["data"]
        return super()._repr_mimebundle_(**kwargs) | drawn


def explorer(draw: Callable[..., Any], **controls: ipywidgets.Widget) -> Explorer:
    """Put controls above the figure, or the table, that they draw.

    The figure is handed to its place as data. Capturing it there, as `ipywidgets.interactive_output` does, makes a
    notebook client answer the kernel while the cell still runs, and nbclient then may wait for ever for the cell's end.

    Parameters
    ----------
    draw
        Makes what is shown; called with each control's value under the control's name. The message of a ValueError is
        shown in its place.
    controls
        Widgets with a ``value``.
    """
    place = ipywidgets.Output()

    def show(_: object = None) -> None:
        try:
            shown = _data_of(draw(**{name: control.value for name, control in controls.items()}))
        except ValueError as error:
            # What was typed cannot be drawn: say why, where the figure would be.
            shown = {"text/plain": str(error)}
        place.outputs = ({"output_type": "display_data", "data": shown, "metadata": {}},)

    for control in controls.values():
        control.observe(show, "value")
    show()
    # Below one another where the page is narrow.
    above = ipywidgets.HBox(list(controls.values()), layout=ipywidgets.Layout(flex_flow="row wrap"))
    return Explorer([above, place])


def _data_of(drawn: Any) -> dict[str, Any]:
    if isinstance(drawn, go.Figure):
        data: dict[str, Any] = drawn._repr_mimebundle_()
        return data
    return {"text/html": drawn._repr_html_(), "text/plain": repr(drawn)}


def slope_slider(slope: float) -> ipywidgets.FloatLogSlider:
    """Return a slider of ALiBi's slope, by powers of two."""
    return ipywidgets.FloatLogSlider(
        value=slope, base=2, min=-8, max=0, step=1, description="slope", continuous_update=False
    )


def length_slider(tokens: float) -> ipywidgets.FloatLogSlider:
    """Return a slider of the length of a sequence, by powers of two."""
    return ipywidgets.FloatLogSlider(
        value=tokens,
        base=2,
        min=4,
        max=20,
        step=1,
        description="tokens",
        readout_format=",.0f",
        continuous_update=False,
    )


def alibi_bias(slope: float, seq_len: int) -> Explorer:
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
        slope=slope_slider(slope),
        seq_len=ipywidgets.IntSlider(value=seq_len, min=4, max=64, description="tokens", continuous_update=False),
    )


def fact_in_both_directions(
    models: Mapping[str, PreTrainedModel], tokenizer: PreTrainedTokenizerFast, fact: Fact
) -> Explorer:
    """Write a fact and see how likely its sentence is in each direction, model by model.

    Parameters
    ----------
    models
        Trained models by name.
    tokenizer
        Theirs.
    fact
        The fact to begin with.
    """

    def draw(subject: str, relation: str, object: str) -> go.Figure:
        written = Fact("written", subject.strip(), relation.strip(), object.strip())
        rows = []
        for name, model in models.items():
            found = sentence_perplexities(model, tokenizer, written)
            rows.append({"arm": name, **{f"{direction}_perplexity": found[direction] for direction in DIRECTIONS}})
        return figures.directions(pd.DataFrame(rows)).update_layout(title=f"{written.forward} / {written.backward}")

    return explorer(
        draw,
        **{
            name: ipywidgets.Text(value=getattr(fact, name), description=name, continuous_update=False)
            for name in ("subject", "relation", "object")
        },
    )


def cache_calculator(size: str, tokens: int, sequences: int, dtype: str) -> Explorer:
    """Choose size, length, batch and dtype, and see what each model keeps.

    Parameters
    ----------
    size, tokens, sequences, dtype
        What to begin with; the dtype by its name, such as "float32".
    """

    def draw(size: str, tokens: float, sequences: int, dtype: str) -> go.Figure:
        table = calculate(size, round(tokens), sequences=sequences, dtype=getattr(torch, dtype))
        title = f"{size}, {sequences} x {round(tokens):,} tokens, {dtype}"
        return figures.cache_sizes(table).update_layout(title=title)

    return explorer(
        draw,
        size=ipywidgets.Dropdown(options=sizes(), value=size, description="size"),
        tokens=length_slider(tokens),
        sequences=ipywidgets.BoundedIntText(value=sequences, min=1, max=4096, description="sequences"),
        dtype=ipywidgets.Dropdown(options=DTYPES, value=dtype, description="dtype"),
    )


def retrofit_explorer(stages: pd.DataFrame) -> ipywidgets.VBox:
    """Choose what becomes of keys and values and how many bytes are left, and see what each layer loses.

    Parameters
    ----------
    stages
        As `newllm.analysis.retrofits.retrofit_stages` gives them; those without energies are left out.
    """
    known = stages[stages["energy_lost_by_layer"].notna()]
    sizes_there = sorted(known["bytes_per_token"].unique())

    def draw(factorisation: str, bytes_left: float) -> go.Figure:
        chosen = known[(known["what"] == factorisation) & (known["bytes_per_token"] == bytes_left)]
        if chosen.empty:
            there = map(int, known.loc[known["what"] == factorisation, "bytes_per_token"].unique())
            raise ValueError(f"{factorisation} was not tried at {bytes_left:,.0f} bytes, but at {list(there)}")
        row = chosen.iloc[0]
        title = f"{factorisation}: {bytes_left:,.0f} bytes, perplexity {row['perplexity']:.1f}"
        return figures.energy_lost(chosen).update_layout(title=title)

    return explorer(
        draw,
        factorisation=ipywidgets.Dropdown(options=list(known["what"].unique()), description="kept as"),
        bytes_left=ipywidgets.SelectionSlider(
            options=[(f"{size:,.0f}", size) for size in sizes_there],
            value=known["bytes_per_token"].iloc[0],
            description="bytes",
            continuous_update=False,
        ),
    )
