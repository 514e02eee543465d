"""In which layers of a model attention copies: passages said again, with the attention of some layers taken away.

A layer's attention is taken away by adding zeros in the place of what it says, as knock-outs of heads do it (Olsson et
al. 2022, In-context Learning and Induction Heads). The layers behind it then read what they have never read in
training, so that a loss says that the layer is needed, and only what is kept without the others says that it suffices.
"""

from collections.abc import Collection, Iterator
from contextlib import ExitStack, contextmanager

import pandas as pd
import torch
from numpy.typing import ArrayLike
from torch import Tensor, nn

from newllm.evaluation.recall import repeated_passages
from newllm.models.decoder import Decoder

ALL, WITHOUT, ALONE = "all", "without", "alone"
COLUMNS = ["attention", "layer", "gain", "gain_low", "gain_high", "passages"]


def copying_by_layer(
    model: Decoder, stream: ArrayLike, distance: int, *, passages: int = 64, device: torch.device | str | None = None
) -> pd.DataFrame:
    """Measure what a passage gains that was read before where the attention of layers is taken away.

    Parameters
    ----------
    model
        Its blocks attend.
    stream
        Held-out ids (S,).
    distance
        Tokens of other text between the two copies.
    passages
        How many are asked, always the same.
    device
        Where to score; the model's own device where omitted.

    Returns
    -------
    pandas.DataFrame
        ``attention`` that is there (``all``; ``without`` that of a layer; that of a layer ``alone``), ``layer`` (1 for
        the first; 0 where it is all), and ``gain`` with its ends and ``passages``, as
        `newllm.evaluation.recall.repeated_passages` gives them.

    Raises
    ------
    ValueError
        As `newllm.evaluation.recall.repeated_passages`.
    """
    layers = range(1, len(model.stack.layers) + 1)
    cases = [(ALL, 0, set[int]())]
    cases += [(WITHOUT, layer, {layer}) for layer in layers]
    cases += [(ALONE, layer, set(layers) - {layer}) for layer in layers]
    rows = []
    for attention, layer, gone in cases:
        with attention_taken_away(model, gone):
            found = repeated_passages(model, stream, [distance], passages=passages, device=device)
        rows.append({"attention": attention, "layer": layer, **found.iloc[0].to_dict()})
    return pd.DataFrame(rows)[COLUMNS]


@contextmanager
def attention_taken_away(model: Decoder, layers: Collection[int]) -> Iterator[None]:
    """Let the attention of some layers, 1 for the first, add nothing as long as the block lasts."""
    with ExitStack() as hooks:
        for number, layer in enumerate(model.stack.layers, start=1):
            if number in layers:
                hooks.callback(layer.get_submodule("attention").register_forward_hook(_nothing).remove)
        yield


def _nothing(attention: nn.Module, arguments: tuple[object, ...], said: Tensor) -> Tensor:
    return torch.zeros_like(said)
