"""What a trained model loses where its cache is kept in fewer bits."""

from collections.abc import Sequence

import pandas as pd
import torch
from transformers.cache_utils import Cache

from newllm.evaluation.cache import growth, prefilled
from newllm.evaluation.perplexity import Windows, evaluate
from newllm.evaluation.probing import period_of, untouched_randomness
from newllm.evaluation.statistics import paired_difference
from newllm.models.language_model import LanguageModel
from newllm.models.narrow_layer import CODECS


def score_by_precision(
    model: LanguageModel,
    windows: Windows,
    *,
    precisions: Sequence[str] = tuple(CODECS),
    batch_size: int = 64,
    device: torch.device | str | None = None,
) -> pd.DataFrame:
    """Score held-out windows through caches of several precisions, token by token, as decoding reads them.

    Every token reads all others as they come back from the cache. The weights stay as they are. (In a call of several
    tokens a recurrence, and key attention, would read exact values of each other's.)

    Parameters
    ----------
    model
        One of this package's models that keeps entries by token, with or without a recurrence's state beside them.
    windows
        Held-out windows.
    precisions
        Of `newllm.models.narrow_layer.CODECS`; the first is what the others are compared with.
    batch_size
        Windows at once.
    device
        Where to score; the model's own device where omitted.

    Returns
    -------
    pandas.DataFrame
        One row a precision: ``precision``, ``bytes_per_token`` (measured, scales and zero points included),
        ``state_bytes`` (of a recurrence, kept as it is), ``perplexity``, ``bits_per_byte``, ``accuracy``,
        ``difference`` (nats a token above the first row) and its interval over windows, ``low`` and ``high``; these
        three are empty in the first row.

    Raises
    ------
    ValueError
        For an unknown precision, or a model whose cache has none, before anything is scored.
    """
    if not precisions:
        raise ValueError(f"precisions is empty: choose some of {', '.join(CODECS)}")
    for precision in precisions:
        model.new_cache(precision)
    rows, losses = [], []
    for precision in precisions:

        def new_cache(precision: str = precision) -> Cache:
            return model.new_cache(precision)

        report = evaluate(model, windows, batch_size=batch_size, device=device, tokens_a_step=1, new_cache=new_cache)
        losses.append(report.window_losses)
        slope, state = _bytes(model, precision)
        row = {"precision": precision, "bytes_per_token": slope, "state_bytes": state}
        row |= {"perplexity": report.perplexity, "bits_per_byte": report.bits_per_byte, "accuracy": report.accuracy}
        if len(losses) > 1:
            difference = paired_difference(losses[-1], losses[0])
            row |= {"difference": difference.mean, "low": difference.low, "high": difference.high}
        rows.append(row)
    return pd.DataFrame(rows)


def _bytes(model: LanguageModel, precision: str) -> tuple[float, float]:
    """Bytes a token, and bytes that are there whatever the length, of a cache of one sequence."""
    with untouched_randomness(model.device):
        return growth(lambda length: prefilled(model, length, model.new_cache(precision)), 2 * period_of(model))
