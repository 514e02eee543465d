"""How much of the past a model uses: the same held-out tokens, predicted from their last few tokens alone.

It is the yardstick of every small cache: a model loses nothing by forgetting what it did not use.
"""

from collections.abc import Sequence

import numpy as np
import pandas as pd
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor
from transformers import PreTrainedModel

from newllm.evaluation.comparison_statistics import document_interval
from newllm.evaluation.perplexity import perplexity_of, refuse_non_finite, score_rows, scoring, token_losses

# Tokens that are predicted in each window, evenly spaced over its second half, where there is a past to leave out.
ASKED = 8
SHORTEST_WINDOW = 2 * ASKED
TOKENS_AT_ONCE = 8192
COLUMNS = ("context", "perplexity", "loss", "lost", "lost_low", "lost_high", "tokens")


def score_truncated(
    model: PreTrainedModel,
    windows: NDArray[np.integer],
    documents: ArrayLike,
    contexts: Sequence[int],
    *,
    tokens_at_once: int = TOKENS_AT_ONCE,
    device: torch.device | str | None = None,
) -> pd.DataFrame:
    """Predict the same tokens from their last few tokens, from more of them, and from the whole window.

    What lies before is not there at all: a mask that hides it in every layer would let it through from layer to layer.

    Parameters
    ----------
    model
        Any causal language model that takes ``logits_to_keep``.
    windows
        Held-out ids (N, T + 1), T of at least 16. Of each window, 8 tokens of its second half are predicted.
    documents
        The document, or group of documents, of each window (N,).
    contexts
        How many last tokens the model sees. More than there are in the window before a token: all of them.
    tokens_at_once
        Tokens in a batch.
    device
        Where to score; the model's own device where omitted.

    Returns
    -------
    pandas.DataFrame
        One row a context, the shortest first, and a last one for all of the window that lies before a token, more than
        half of it: ``context`` (tokens; T in the last row), ``perplexity``, ``loss`` (nats a token), ``lost`` (nats a
        token above the last row) with ``lost_low`` and ``lost_high`` (95 %, over documents; empty in the last row, and
        with a single document), ``tokens``.

    Raises
    ------
    ValueError
        Where windows are shorter than 16 tokens, documents are not theirs, or a context is shorter than one token.
    NonFiniteScoreError
        Where a loss is no number.
    """
    ids, owners = np.asarray(windows), np.asarray(documents)
    length = ids.shape[1] - 1 if ids.ndim == 2 else 0
    if length < SHORTEST_WINDOW or not len(ids):
        raise ValueError(f"windows must be (N, T + 1) with T of {SHORTEST_WINDOW} or more, got the shape {ids.shape}")
    if owners.shape != ids.shape[:1]:
        raise ValueError(f"each of {len(ids)} windows needs a document, got {owners.shape}")
    if not contexts or min(contexts) < 1:
        raise ValueError(f"contexts is {list(contexts)}, but there must be some, each of at least one token")
    # The place of a token is how many tokens of its window stand before it.
    places = [length - step * (length // 2 // ASKED) for step in reversed(range(ASKED))]
    tokens = torch.from_numpy(ids.astype(np.int64))
    with scoring(model, device) as place:
        tokens = tokens.to(place)
        whole = _whole(model, tokens, places, max(1, tokens_at_once // length))
        losses = {
            context: np.stack([_last(model, tokens, at, context, tokens_at_once) for at in places], axis=1)
            for context in sorted(set(contexts))
        }
    rows: list[dict[str, float]] = []
    for context, found in losses.items():
        row = {"context": context, "perplexity": perplexity_of(float(found.mean())), "loss": float(found.mean())}
        rows.append(row | document_interval((found - whole).mean(1), owners).columns("lost") | {"tokens": found.size})
    mean = float(whole.mean())
    rows.append({"context": length, "perplexity": perplexity_of(mean), "loss": mean, "tokens": whole.size})
    return pd.DataFrame(rows, columns=list(COLUMNS))


def _whole(model: PreTrainedModel, tokens: Tensor, places: Sequence[int], rows: int) -> NDArray[np.float64]:
    """Losses (N, P) of the tokens at some places, each with all of its window before it: one pass a window."""
    behind = torch.tensor(places) - 1
    return np.concatenate([score_rows(model, part, None)[0].cpu()[:, behind].numpy() for part in tokens.split(rows)])


def _last(model: PreTrainedModel, tokens: Tensor, place: int, context: int, tokens_at_once: int) -> NDArray[np.float64]:
    """Losses (N,) of the token at one place of each window, of which the model sees so many tokens before it."""
    seen = min(context, place)
    losses = []
    for part in tokens[:, place - seen : place + 1].split(max(1, tokens_at_once // seen)):
        logits = model(part[:, :-1], use_cache=False, logits_to_keep=1).logits[:, -1]
        losses.append(token_losses(logits[None], part[None, :, -1])[0])
    found = torch.cat(losses, dim=1)[0]
    refuse_non_finite(found)
    return found.cpu().numpy()
