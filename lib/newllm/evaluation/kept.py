"""Which tokens of the past a cache still holds something of, and how much."""

import pandas as pd
import torch
from torch import Tensor
from transformers.cache_utils import CacheLayerMixin, DynamicLayer

from newllm.evaluation.probing import probe_generator, random_tokens, untouched_randomness
from newllm.models.cache_layers import ChunkContextLayer, RecurrentStateLayer
from newllm.models.language_model import LanguageModel

KEYS, VALUES, SHARED, CHUNK_END, STATE = "keys", "values", "one vector for both", "context of a chunk", "last context"


@torch.no_grad()
def kept_by_token(model: LanguageModel, tokens: int) -> pd.DataFrame:
    """Read a real cache after some tokens: how many values of each token are in it.

    Parameters
    ----------
    model
        One of this package's models.
    tokens
        Length of the sequence.

    Returns
    -------
    pandas.DataFrame
        One row for each token (0 is the first) and kind of entry, layers together: ``token``, ``kind`` and ``values``.
        Their sum is ``model.cached_values(tokens)``.
    """
    with untouched_randomness(model.device):
        ids = random_tokens(model, 1, tokens, probe_generator())
        cache = model.eval()(ids, use_cache=True, logits_to_keep=1).past_key_values
    rows = [row for layer in cache.layers for row in _entries(layer, tokens)]
    entries = pd.DataFrame(rows, columns=["token", "kind", "values"])
    return entries.groupby(["token", "kind"], sort=False)[["values"]].sum().reset_index()


def _entries(layer: CacheLayerMixin, tokens: int) -> list[tuple[int, str, int]]:
    """Token, kind and number of values of each entry in a layer."""
    if isinstance(layer, DynamicLayer):
        assert layer.keys is not None and layer.values is not None
        alone = layer.values.numel() == 0
        kept = [(SHARED if alone else KEYS, layer.keys), (VALUES, layer.values)]
        return [entry for kind, tensor in kept if tensor.numel() for entry in _by_token(tensor, kind)]
    assert isinstance(layer, RecurrentStateLayer) and layer.state is not None
    entries = [(tokens - 1, STATE, layer.state.numel())]
    if isinstance(layer, ChunkContextLayer):
        width = layer.state.numel()
        ends = range(layer.chunk_size - 1, tokens, layer.chunk_size)
        entries += [(token, CHUNK_END, width) for token, _ in zip(ends, layer.chunk_ends[0], strict=True)]
    return entries


def _by_token(tensor: Tensor, kind: str) -> list[tuple[int, str, int]]:
    """Entries of a tensor (1, heads, tokens, width)."""
    _, heads, length, width = tensor.shape
    return [(token, kind, heads * width) for token in range(length)]
