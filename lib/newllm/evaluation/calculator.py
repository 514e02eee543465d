"""What a cache will cost, before it is there: every model at any size, length, batch and dtype, without its weights."""

from collections.abc import Sequence

import pandas as pd
import torch

from newllm.evaluation.probing import refuse_no_count
from newllm.models import create, find, names
from newllm.models.registry import BASELINE


def calculate(
    size: str,
    tokens: int,
    *,
    sequences: int = 1,
    dtype: torch.dtype = torch.float32,
    models: Sequence[str] | None = None,
) -> pd.DataFrame:
    """Calculate the bytes that models keep.

    Parameters
    ----------
    size
        One of ``newllm.models.sizes()``.
    tokens
        Tokens in each sequence.
    sequences
        How many sequences are decoded at once.
    dtype
        Type of the cached values.
    models
        Names; all registered ones where omitted.

    Returns
    -------
    pandas.DataFrame
        One row a model, the largest cache first: ``model``, ``keeps`` (in words), ``values`` (of one sequence),
        ``bytes`` (of all), and ``share`` of what the baseline keeps.

    Raises
    ------
    ValueError
        For an unknown name or size, no models, or no whole number of tokens or sequences, 1 or more.
    """
    refuse_no_count(tokens=tokens, sequences=sequences)
    wanted = names() if models is None else models
    if not wanted:
        raise ValueError("models is empty: name one or more, or leave it out for all of them")
    baseline = _values(BASELINE, size, tokens)
    rows = []
    for name in wanted:
        values = _values(name, size, tokens)
        rows.append(
            {
                "model": name,
                "keeps": find(name).summary,
                "values": values,
                "bytes": values * sequences * dtype.itemsize,
                "share": values / baseline,
            }
        )
    return pd.DataFrame(rows).sort_values("bytes", ascending=False, ignore_index=True, kind="stable")


def _values(name: str, size: str, tokens: int) -> int:
    # On the meta device a model has shapes and no memory, whatever its size.
    with torch.device("meta"):
        return create(name, size).cached_values(tokens)
