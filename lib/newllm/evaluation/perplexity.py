"""Perplexity on held-out text: per token, per byte, per position in the window, and beyond the training length."""

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import pandas as pd
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor
from transformers import PreTrainedModel
from transformers.cache_utils import Cache

from newllm.evaluation.probing import forward_in_pieces, pieces_of
from newllm.progress import SCORING, stage
from newllm.runtime import move

# Logits held at once (rows x tokens x vocabulary): 256 MB in float32.
LOGITS_AT_ONCE = 2**26
STREAM_PIECE = 256


class Windows(Protocol):
    """What the measures need of `newllm.data.TokenWindows`."""

    seq_length: int
    text_bytes: int

    @property
    def token_ids(self) -> NDArray[np.integer]:
        """Ids (N * seq_length + 1,)."""

    def __len__(self) -> int:
        """Return the number of windows."""


def perplexity_of(loss: float) -> float:
    """Return exp of a loss in nats, infinite where that overflows."""
    return math.exp(loss) if loss < 700 else math.inf


@dataclass(frozen=True)
class Score:
    """How well a model predicted some tokens.

    Attributes
    ----------
    loss
        Mean negative log-likelihood a token, nats.
    accuracy
        Share of tokens that were the model's first guess.
    tokens
        Tokens predicted.
    text_bytes
        Bytes of text they stand for; None where unknown.
    """

    loss: float
    accuracy: float
    tokens: int
    text_bytes: int | None

    @property
    def perplexity(self) -> float:
        """exp(loss), infinite where that overflows."""
        return perplexity_of(self.loss)

    @property
    def bits_per_byte(self) -> float:
        """Bits of all tokens over the bytes of the text; comparable across tokenizers. NaN where bytes are unknown."""
        if self.text_bytes is None:
            return math.nan
        return self.loss * self.tokens / math.log(2) / self.text_bytes


@dataclass(frozen=True)
class PerplexityReport(Score):
    """A score over windows.

    Attributes
    ----------
    positions
        Perplexity by how many tokens of the window came before: columns start, end, perplexity, tokens.
    token_losses
        Loss of each predicted token (N, T), nats.
    """

    positions: pd.DataFrame
    token_losses: NDArray[np.float64]

    @property
    def window_losses(self) -> NDArray[np.float64]:
        """Mean loss of each window (N,), for paired differences between models."""
        return self.token_losses.mean(1)


class NonFiniteScoreError(ValueError):
    """A model whose logits are no numbers: nothing it says can be recorded."""


def refuse_non_finite(scores: Tensor) -> None:
    """Raise NonFiniteScoreError where a model's losses or logits are NaN or infinite."""
    if not scores.isfinite().all():
        raise NonFiniteScoreError(
            "the model's scores are not finite (NaN or infinity), so nothing is recorded of it: its training diverged "
            "or its weights are damaged; train it again, with a smaller lr."
        )


@contextmanager
def scoring(model: PreTrainedModel, device: torch.device | str | None) -> Iterator[torch.device]:
    """Move a model to its device and into eval mode; the mode is given back."""
    place = torch.device(device) if device is not None else model.device
    was_training = model.training
    move(model, place)
    model.eval()
    try:
        with torch.no_grad():
            yield place
    finally:
        model.train(was_training)


def rows_at_once(batch_size: int, tokens: int, vocabulary: int) -> int:
    """Return how many rows of so many tokens are scored at once: a batch, or fewer where their logits do not fit."""
    return max(1, min(batch_size, LOGITS_AT_ONCE // (tokens * vocabulary)))


def token_losses(logits: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
    """Loss in nats and whether the first guess was right, (B, T) each, from logits (B, T, V)."""
    losses, hits = [], []
    for row, wanted in zip(logits, targets, strict=True):
        precise = row.to(torch.promote_types(row.dtype, torch.float32))
        losses.append(F.cross_entropy(precise, wanted, reduction="none").double())
        hits.append(row.argmax(-1) == wanted)
    return torch.stack(losses), torch.stack(hits)


def score_rows(
    model: PreTrainedModel, ids: Tensor, tokens_a_step: int | None, new_cache: Callable[[], Cache] | None = None
) -> tuple[Tensor, Tensor]:
    """Score every token of windows (B, T + 1) but the first, each window from an empty cache: (B, T) twice.

    The cache is the model's own, or what ``new_cache`` makes.

    Raises
    ------
    NonFiniteScoreError
        Where a loss is no number.
    """
    inputs, targets = ids[:, :-1], ids[:, 1:]
    if tokens_a_step is None:
        losses, hits = token_losses(model(inputs, use_cache=False).logits, targets)
    else:
        cache = None if new_cache is None else new_cache()
        pieces = forward_in_pieces(model, inputs, pieces_of(inputs.shape[1], tokens_a_step), cache=cache)
        scored = [token_losses(logits, targets[:, part]) for part, logits, _ in pieces]
        losses, hits = (torch.cat(parts, 1) for parts in zip(*scored, strict=True))
    refuse_non_finite(losses)
    return losses, hits


def _cut(token_ids: NDArray[np.integer], first: int, rows: int, seq_length: int) -> Tensor:
    """Windows (rows, seq_length + 1) of a stream, the last id of each the first of the next."""
    start = first * seq_length
    stream = torch.from_numpy(np.asarray(token_ids[start : start + rows * seq_length + 1]).astype(np.int64))
    return stream.unfold(0, seq_length + 1, seq_length)


def _score_windows(
    model: PreTrainedModel,
    token_ids: NDArray[np.integer],
    seq_length: int,
    windows: int,
    batch_size: int,
    device: torch.device,
    tokens_a_step: int | None = None,
    new_cache: Callable[[], Cache] | None = None,
) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
    """Losses and hits (windows, seq_length) of the first windows of a stream."""
    most = rows_at_once(batch_size, tokens_a_step or seq_length, model.config.vocab_size)
    losses, hits = [], []
    with stage(SCORING, windows, "window") as told:
        for first in range(0, windows, most):
            rows = min(most, windows - first)
            ids = _cut(token_ids, first, rows, seq_length).to(device)
            loss, hit = score_rows(model, ids, tokens_a_step, new_cache)
            losses.append(loss.cpu().numpy())
            hits.append(hit.cpu().numpy())
            told.advance(rows)
    return np.concatenate(losses), np.concatenate(hits)


def evaluate(
    model: PreTrainedModel,
    windows: Windows,
    *,
    batch_size: int = 8,
    device: torch.device | str | None = None,
    tokens_a_step: int | None = None,
    new_cache: Callable[[], Cache] | None = None,
    bands: Sequence[int] = (),
) -> PerplexityReport:
    """Score every predicted token of the windows once, each window from an empty cache.

    Parameters
    ----------
    model
        Any causal language model.
    windows
        Held-out windows.
    batch_size
        Windows at once; fewer where their logits would not fit in 256 MB.
    device
        Where to score; the model's own device where omitted.
    tokens_a_step
        None scores a window in one pass. A number sends it through the cache, that many tokens a call: for methods
        whose cache remembers less than the full pass sees.
    new_cache
        Makes the empty cache that windows are sent through; the model makes its own where omitted.
    bands
        Positions at which a window is parted for the perplexity by position; those beyond its end part nothing.

    Returns
    -------
    PerplexityReport
        Token-weighted, in float64 sums whatever the model's dtype.
    """
    with scoring(model, device) as place:
        losses, hits = _score_windows(
            model, windows.token_ids, windows.seq_length, len(windows), batch_size, place, tokens_a_step, new_cache
        )
    return PerplexityReport(
        loss=float(losses.mean()),
        accuracy=float(hits.mean()),
        tokens=losses.size,
        text_bytes=windows.text_bytes,
        positions=_by_position(losses, bands),
        token_losses=losses,
    )


def _by_position(losses: NDArray[np.float64], starts: Sequence[int]) -> pd.DataFrame:
    """Perplexity in bands of positions, the first of them from 0 on, from losses (N, T)."""
    length = losses.shape[1]
    edges = [0, *(start for start in sorted(starts) if start < length)]
    bands = list(zip(edges, [*edges[1:], length], strict=True))
    return pd.DataFrame(
        {
            "start": [start for start, _ in bands],
            "end": [end for _, end in bands],
            "perplexity": [float(np.exp(losses[:, start:end].mean())) for start, end in bands],
            "tokens": [losses[:, start:end].size for start, end in bands],
        }
    )


def evaluate_stream(
    model: PreTrainedModel,
    token_ids: NDArray[np.integer] | Tensor,
    *,
    text_bytes: int | None = None,
    tokens_a_step: int = STREAM_PIECE,
    device: torch.device | str | None = None,
) -> Score:
    """Score a whole stream in one run, the cache or state carried on from the first token to the last.

    It is meant for models with a recurrent state or chunks. A per-token cache grows with the stream, and its time with
    the square of it.

    Parameters
    ----------
    model
        Any causal language model with a cache.
    token_ids
        Ids (N,) of the stream; all but the first are predicted.
    text_bytes
        Bytes of the text of the predicted tokens, for bits per byte.
    tokens_a_step
        Tokens a call.
    device
        Where to score; the model's own device where omitted.
    """
    stream = torch.as_tensor(np.asarray(token_ids).astype(np.int64))[None]
    if stream.ndim != 2 or stream.shape[1] < 2:
        raise ValueError(f"a stream must be a row of at least two ids, got the shape {tuple(stream.shape[1:])}")
    with scoring(model, device) as place:
        losses, hits = score_rows(model, stream.to(place), tokens_a_step)
    return Score(float(losses.mean()), float(hits.double().mean()), losses.numel(), text_bytes)


def extrapolate(
    model: PreTrainedModel,
    windows: Windows,
    *,
    factors: Sequence[int] = (1, 2, 4),
    batch_size: int = 8,
    device: torch.device | str | None = None,
) -> pd.DataFrame:
    """Perplexity in windows longer than those of the training, cut from the same stream of text.

    Each length predicts the same tokens, so the rows differ by the context alone.

    Parameters
    ----------
    model
        Any causal language model.
    windows
        Held-out windows of the training length.
    factors
        Multiples of the training length.
    batch_size
        Windows at once, at most.
    device
        Where to score; the model's own device where omitted.

    Returns
    -------
    pandas.DataFrame
        One row a factor: factor, seq_length, perplexity, beyond (perplexity of the positions beyond the training
        length, NaN at factor 1), tokens.

    Raises
    ------
    ValueError
        Where there are too few windows for the longest length.
    """
    if min(factors) < 1 or len(windows) < math.lcm(*factors):
        raise ValueError(
            f"factors {tuple(factors)} must be 1 or more and need {math.lcm(*factors)} windows, got {len(windows)}"
        )
    scored = len(windows) - len(windows) % math.lcm(*factors)
    trained = windows.seq_length
    rows = []
    with scoring(model, device) as place:
        for factor in factors:
            length, count = factor * trained, scored // factor
            losses, _ = _score_windows(model, windows.token_ids, length, count, batch_size, place)
            beyond = losses[:, trained:]
            rows.append(
                {
                    "factor": factor,
                    "seq_length": length,
                    "perplexity": float(np.exp(losses.mean())),
                    "beyond": float(np.exp(beyond.mean())) if beyond.size else math.nan,
                    "tokens": losses.size,
                }
            )
    return pd.DataFrame(rows)
