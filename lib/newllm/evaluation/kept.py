"""Which tokens of the past a cache still holds something of, and how much."""

import pandas as pd
import torch

from newllm.evaluation.probing import probe_generator, random_tokens, untouched_randomness
from newllm.models.cache_entries import Entry, entries_of
from newllm.models.language_model import LanguageModel


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
    rows = [entry for layer in cache.layers for entry in entries_of(layer)]
    entries = pd.DataFrame(rows, columns=list(Entry._fields))
    return entries.groupby(["token", "kind"], sort=False)[["values"]].sum().reset_index()
