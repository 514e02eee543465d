"""The controls of the notebooks that show trained models: each a hand on what a figure is drawn of."""

from collections.abc import Callable, Mapping, Sequence
from html import escape
from typing import cast

import ipywidgets
import pandas as pd
import plotly.graph_objects as go
import torch
from transformers import PreTrainedModel, PreTrainedTokenizerFast

from newllm import figures
from newllm.config.methods import method_names, method_of
from newllm.data.tokenizers import encode_text
from newllm.evaluation.continuations import continue_ids
from newllm.evaluation.order import score_by_distance
from newllm.figures.arm_words import arm_in_words
from newllm.figures.style import INK, colour, dash, readable_bytes
from newllm.figures.widgets import Explorer, explorer, length_slider, slope_slider
from newllm.models.position import PositionEncodingConfig
from newllm.models.projection import DiverseProjection
from newllm.models.recurrent import RecurrentModel

SHOWN_ROWS = 8
ENCODINGS = ("rope", "alibi", "none")


def training_pass(spectra: pd.DataFrame, contexts: pd.DataFrame) -> Explorer:
    """Move through the passes of a projection training: spectrum and contexts after each.

    Parameters
    ----------
    spectra, contexts
        As for `newllm.figures.recurrence_at_pass`.
    """
    passes = sorted(set(spectra["iteration"]))
    return explorer(
        lambda iteration: figures.recurrence_at_pass(spectra, contexts, iteration),
        iteration=ipywidgets.SelectionSlider(
            options=passes, value=passes[-1], description="pass", continuous_update=False
        ),
    )


def arms_on_and_off(
    arms: Sequence[str], pictures: Mapping[str, Callable[[list[str]], go.Figure]], told: Sequence[str] = ()
) -> Explorer:
    """Choose a picture, and the arms that are in it.

    Parameters
    ----------
    arms
        Names of all arms.
    pictures
        What draws each picture of the arms that it is given, by the picture's name.
    told
        Arms that come first in the order of colours: those in colour where there are too many for that.
    """

    def draw(picture: str, chosen: tuple[str, ...]) -> go.Figure:
        if not chosen:
            raise ValueError("no arm is chosen: choose one or more (with Ctrl or Cmd)")
        figure = pictures[picture]([arm for arm in arms if arm in chosen])
        for line in figure.select_traces(lambda trace: trace.type == "scatter" and trace.legendgroup in places):
            # An arm keeps its colour when others go.
            place = places[line.legendgroup]
            line.update(line_color=colour(place))
            if line.showlegend is not False:
                line.update(line_dash=dash(place))
        return figure

    every = list(dict.fromkeys(arms))
    places = {arm: place for place, arm in enumerate(dict.fromkeys([*(arm for arm in told if arm in every), *every]))}
    return explorer(
        draw,
        picture=ipywidgets.Dropdown(options=list(pictures), description="picture"),
        chosen=ipywidgets.SelectMultiple(
            options=[(arm_in_words(arm), arm) for arm in every],
            value=every,
            rows=min(SHOWN_ROWS, len(every)),
            description="arms",
        ),
    )


def prompt_box(
    models: Mapping[str, PreTrainedModel], tokenizer: PreTrainedTokenizerFast, prompt: str, tokens: int
) -> Explorer:
    """Write the beginning of a text and read how each model goes on, greedily.

    Parameters
    ----------
    models
        Trained models by name.
    tokenizer
        Theirs.
    prompt
        What to begin with.
    tokens
        How many tokens each writes.
    """

    def draw(prompt: str) -> "_Texts":
        ids = encode_text(tokenizer, prompt)
        if not ids:
            raise ValueError("write a beginning of a word or more")
        return _Texts({name: continue_ids(model, tokenizer, ids, tokens).strip() for name, model in models.items()})

    written = ipywidgets.Text(
        value=prompt, description="prompt", continuous_update=False, layout=ipywidgets.Layout(width="90%")
    )
    return explorer(draw, prompt=written)


class _Texts:
    """What models say, one below the other, lines as they break them."""

    def __init__(self, texts: Mapping[str, str]) -> None:
        self.texts = texts

    def __repr__(self) -> str:
        return "\n".join(f"{model}: {text}" for model, text in self.texts.items())

    def _repr_html_(self) -> str:
        left = 'align="left" style="text-align:left"'
        heads = "".join(f"<th {left}>{words}</th>" for words in ("model", "goes on"))
        rows = "\n".join(
            f"<tr><td {left}>{escape(model)}</td><td {left}>{'<br>'.join(map(escape, text.splitlines()))}</td></tr>"
            for model, text in self.texts.items()
        )
        return f'<table class="dataframe">\n<thead><tr>{heads}</tr></thead>\n<tbody>\n{rows}\n</tbody>\n</table>'


def score_against_distance(slope: float, longest: int) -> Explorer:
    """Choose encodings, ALiBi's slope and the largest distance, and see the score of a query with an equal key.

    Parameters
    ----------
    slope, longest
        What to begin with.
    """

    def draw(encodings: tuple[str, ...], slope: float, longest: int) -> go.Figure:
        if not encodings:
            raise ValueError("no encoding is chosen: choose one or more (with Ctrl or Cmd)")
        chosen = [
            PositionEncodingConfig(type="alibi", alibi_slope=slope) if name == "alibi" else name for name in encodings
        ]
        return figures.score_by_distance(score_by_distance(chosen, head_dim=64, longest=longest))

    return explorer(
        draw,
        encodings=ipywidgets.SelectMultiple(
            options=ENCODINGS, value=ENCODINGS, rows=len(ENCODINGS), description="encoding"
        ),
        slope=slope_slider(slope),
        longest=ipywidgets.IntSlider(
            value=longest, min=16, max=1024, step=16, description="distance", continuous_update=False
        ),
    )


def width_against_quality(summary: pd.DataFrame, name: str, width: int, bytes_of_a_value: float) -> Explorer:
    """Move the width of what is kept of a token, and see where its bytes lie among the trained arms.

    Parameters
    ----------
    summary
        As for `newllm.figures.quality_against_bytes`.
    name
        Of the width, such as ``kv_dim``.
    width
        What to begin with.
    bytes_of_a_value
        Bytes of the cache that each value of width takes for a token: those of a number, times the layers that keep it.
    """

    def draw(width: int) -> go.Figure:
        kept = width * bytes_of_a_value
        figure = figures.quality_against_bytes(summary)
        figure.add_vline(x=kept, line_color=INK)
        return figure.update_layout(title_text=f"{name} {width} keeps {readable_bytes(kept)} of a token (the line)")

    widths = [step * 2**power for power in range(3, 10) for step in (1, 1.5)]
    options = sorted({int(option) for option in widths} | {width})
    return explorer(
        draw,
        width=ipywidgets.SelectionSlider(options=options, value=width, description=name, continuous_update=False),
    )


def attended_chunks(position: int, chunk_size: int) -> Explorer:
    """Move a position and the size of chunks, and see which contexts the position attends to.

    Parameters
    ----------
    position, chunk_size
        What to begin with.
    """
    return explorer(
        figures.attended_tokens,
        position=ipywidgets.IntSlider(
            value=position, min=0, max=max(1000, position), description="position", continuous_update=False
        ),
        chunk_size=ipywidgets.IntSlider(
            value=chunk_size, min=1, max=max(200, chunk_size), description="chunk", continuous_update=False
        ),
    )


def block_contexts(model: RecurrentModel, tokenizer: PreTrainedTokenizerFast, text: str) -> Explorer:
    """Write a text and see what each recurrence of a model holds after each token.

    Parameters
    ----------
    model
        With one recurrence or several, on the CPU.
    tokenizer
        Its tokenizer.
    text
        What to begin with.
    """

    @torch.no_grad()
    def draw(text: str, values: int) -> go.Figure:
        ids = encode_text(tokenizer, text)
        if not ids:
            raise ValueError("write a word or more")
        embeds = model.normed_embeddings(torch.tensor([ids]))
        contexts = [cast(DiverseProjection, block).unroll(embeds)[0, :, :values] for block in model.context_blocks]
        return figures.contexts_over_tokens(contexts, [str(tokenizer.decode([one])) for one in ids])

    width = min(cast(DiverseProjection, block).proj_dim for block in model.context_blocks)
    return explorer(
        draw,
        text=ipywidgets.Text(
            value=text, description="text", continuous_update=False, layout=ipywidgets.Layout(width="70%")
        ),
        values=ipywidgets.IntSlider(
            value=min(32, width), min=1, max=width, description="values", continuous_update=False
        ),
    )


def quality_at_length(summary: pd.DataFrame, tokens: int, seq_length: int) -> Explorer:
    """Choose methods and a length of context, and see quality against the bytes of a whole sequence.

    Parameters
    ----------
    summary
        As for `newllm.figures.quality_against_bytes`.
    tokens
        The length to begin with.
    seq_length
        Tokens of the windows that quality was measured in: what is kept depends on the length, quality is as measured.
    """
    rows = summary.dropna(subset=["kv_bytes_per_token"])
    of_rows = rows["arm"].map(lambda arm: method_of(arm, method_names()) or arm)
    methods = list(dict.fromkeys(of_rows))

    def draw(chosen: tuple[str, ...], tokens: float) -> go.Figure:
        shown = rows[of_rows.isin(chosen)]
        if shown.empty:
            raise ValueError("no method is chosen: choose one or more (with Ctrl or Cmd)")
        grown = shown["kv_bytes_per_token"] * round(tokens)
        whole = shown.assign(kv_bytes_per_token=grown.where(grown > 0, shown["kv_bytes"]))
        figure = figures.quality_against_bytes(whole.reset_index(drop=True))
        figure.update_layout(title_text=f"Quality against what a sequence of {round(tokens):,} tokens keeps")
        figure.update_yaxes(title=f"bits per byte, held out, in windows of {seq_length:,} tokens")
        return figure.update_xaxes(title="KV cache of a sequence (bytes)")

    return explorer(
        draw,
        chosen=ipywidgets.SelectMultiple(
            options=methods, value=methods, rows=min(SHOWN_ROWS, len(methods)), description="methods"
        ),
        tokens=length_slider(tokens),
    )
