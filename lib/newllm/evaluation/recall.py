"""Recall: what of the past a model still uses, which perplexity hides. All on real, held-out text.

Most of what a small memory loses sits in the tokens that repeat what was said before (Arora et al. 2023, sec. 3.2).
A measure tells models apart only where the baseline itself gains by its memory: `can_tell` says whether it does.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
import torch
from numpy.typing import ArrayLike, NDArray
from transformers import PreTrainedModel

from newllm.evaluation.perplexity import score_rows, scoring
from newllm.evaluation.probing import refuse_no_count
from newllm.evaluation.statistics import Interval, mean_interval

Ids = NDArray[np.integer]
Losses = NDArray[np.float64]
RARE = 5
WARM_UP = 4
PASSAGE_TOKENS = 32
SIXTEENTHS = 16


def can_tell(baseline: Interval) -> bool:
    """Tell whether a measure can rank models at this budget: whether the baseline's own gain is above zero."""
    return baseline.count > 1 and baseline.low > 0


@dataclass(frozen=True)
class RecallTokens:
    """Which predicted tokens could be recalled from earlier in their window: boolean arrays (N, T).

    Attributes
    ----------
    hits
        The token completes a pair of tokens that stands earlier in the window, and is rare in the training text.
    misses
        The token before has stood earlier in the window, but was followed by other tokens each time; the pair that is
        formed is as rare. What hits lose beside misses is not due to the first token of the pair.
    """

    hits: NDArray[np.bool_]
    misses: NDArray[np.bool_]


def recall_tokens(windows: Ids, training_windows: Ids, vocabulary: int, rare: int = RARE) -> RecallTokens:
    """Find the associative-recall hits of held-out windows (Arora et al. 2023, sec. 3.2), and their controls.

    Parameters
    ----------
    windows
        Held-out ids (N, T + 1).
    training_windows
        What the models were trained on (M, T' + 1).
    vocabulary
        Number of token ids.
    rare
        Most times that a pair may stand in the training text: what is frequent there is known without a memory.
    """
    known, counts = np.unique(_pairs(training_windows, vocabulary), return_counts=True)
    frequent = known[counts > rare]
    pairs = _pairs(windows, vocabulary)
    is_rare = ~np.isin(pairs, frequent)
    seen = _stood_before(pairs)
    followed = _stood_before(windows[:, :-1])
    return RecallTokens(hits=is_rare & seen, misses=is_rare & followed & ~seen)


def _pairs(windows: Ids, vocabulary: int) -> NDArray[np.int64]:
    """Each token with the one before it as one number (N, T)."""
    ids = windows.astype(np.int64)
    return ids[:, :-1] * vocabulary + ids[:, 1:]


def _stood_before(values: NDArray[np.integer]) -> NDArray[np.bool_]:
    """Whether each value stands earlier in its row (N, T)."""
    order = np.argsort(values, axis=1, kind="stable")
    ordered = np.take_along_axis(values, order, axis=1)
    again = np.zeros(values.shape, dtype=bool)
    np.put_along_axis(again, order[:, 1:], ordered[:, 1:] == ordered[:, :-1], axis=1)
    return again


def recall_losses(losses: Losses, tokens: RecallTokens) -> pd.DataFrame:
    """Average the loss over recallable tokens, their controls, and all others.

    Parameters
    ----------
    losses
        Of each predicted token (N, T), nats.
    tokens
        Which of them could be recalled.

    Returns
    -------
    pandas.DataFrame
        One row a kind (``hits``, ``misses``, ``others``): ``kind``, ``tokens`` (how many), ``share`` of all, ``loss``
        with ``loss_low`` and ``loss_high`` (95 %, over windows); a kind without tokens is left out.
    """
    kinds = {"hits": tokens.hits, "misses": tokens.misses, "others": ~(tokens.hits | tokens.misses)}
    rows = [
        {"kind": kind, "tokens": int(mask.sum()), "share": mask.mean(), **_over_windows(losses, mask).columns("loss")}
        for kind, mask in kinds.items()
        if mask.any()
    ]
    return pd.DataFrame(rows)


def _over_windows(losses: Losses, mask: NDArray[np.bool_]) -> Interval:
    """Mean over the chosen tokens, with an interval over windows: a ratio of sums, by its linearisation."""
    sums, counts = (losses * mask).sum(1), mask.sum(1)
    mean = sums.sum() / counts.sum()
    spread = mean_interval((sums - mean * counts) * len(sums) / counts.sum())
    return Interval(float(mean), float(mean + spread.low), float(mean + spread.high), len(sums))


def position_gain(losses: Losses) -> Interval:
    """How much lower the loss is late in the window than early: what a longer past is worth, in nats a token.

    Early is the second sixteenth of the window, where the beginning of the text no longer counts; late is its second
    half.

    Parameters
    ----------
    losses
        Of each predicted token (N, T), nats.

    Raises
    ------
    ValueError
        Where windows are shorter than 16 tokens.
    """
    length = losses.shape[1]
    if length < SIXTEENTHS:
        raise ValueError(f"windows of {length} tokens are too short to part them in sixteenths")
    early, late = losses[:, length // SIXTEENTHS : length // 8], losses[:, length // 2 :]
    return mean_interval(early.mean(1) - late.mean(1))


def by_place_in_period(losses: Losses, period: int, skip: int = 0) -> pd.DataFrame:
    """Average the loss by the place of a token within the period of a way of remembering, such as its chunk.

    Parameters
    ----------
    losses
        Of each predicted token (N, T), nats; token ``t`` of a window stands at place ``t % period``.
    period
        Tokens after which the way of remembering repeats.
    skip
        First tokens to leave out; whole periods, so that what is compared has a past of equal length.

    Returns
    -------
    pandas.DataFrame
        One row a place: ``place``, ``loss`` with ``loss_low`` and ``loss_high`` (95 %, over windows).
    """
    kept = losses[:, skip : skip + (losses.shape[1] - skip) // period * period]
    if skip % period or not kept.size:
        raise ValueError(f"windows of {losses.shape[1]} hold no whole period of {period} behind {skip} tokens")
    by_place = kept.reshape(len(kept), -1, period).mean(1)
    return pd.DataFrame(
        [{"place": place, **mean_interval(by_place[:, place]).columns("loss")} for place in range(period)]
    )


def repeated_passages(
    model: PreTrainedModel,
    stream: ArrayLike,
    distances: Sequence[int],
    *,
    passage_tokens: int = PASSAGE_TOKENS,
    passages: int = 64,
    batch_size: int = 8,
    tokens_a_step: int | None = None,
    seed: int = 0,
    device: torch.device | str | None = None,
) -> pd.DataFrame:
    """How much better a model predicts a passage of real text that it has read before, by the distance between.

    For each passage there are two texts of equal length: the passage, other text, the passage again; and another
    passage in the place of the first. What is compared are the tokens at the end, the same ones behind the same text,
    so that the gain is due to the memory of the passage alone.

    Parameters
    ----------
    model
        Any causal language model.
    stream
        Held-out ids (S,).
    distances
        Tokens of other text between the two copies.
    passage_tokens
        Length of a passage. Its first tokens are not scored: nothing has told yet that it comes again.
    passages
        How many are asked; the same places of the stream for every model and distance.
    batch_size
        Texts at once.
    tokens_a_step
        None scores a text in one pass; a number sends it through the cache, that many tokens a call.
    seed
        Of the places.
    device
        Where to score; the model's own device where omitted.

    Returns
    -------
    pandas.DataFrame
        One row a distance: ``distance``, ``gain`` (nats a token) with ``gain_low`` and ``gain_high`` (95 %, over
        passages), ``passages``.

    Raises
    ------
    ValueError
        Where the stream is no row of ids, or too short for different passages and what stands between them, or a
        number is no count.
    """
    given = np.asarray(stream)
    if not np.issubdtype(given.dtype, np.integer) or given.ndim != 1:
        raise ValueError(f"stream must be one row of whole ids, got {given.dtype} of shape {given.shape}")
    if not len(distances):
        raise ValueError("distances is empty: give one or more")
    refuse_no_count(passage_tokens=passage_tokens, passages=passages, batch_size=batch_size)
    refuse_no_count(**{f"distances[{place}]": distance for place, distance in enumerate(distances)})
    if tokens_a_step is not None:
        refuse_no_count(tokens_a_step=tokens_a_step)
    ids = given.astype(np.int64)
    longest = max(distances)
    if passage_tokens <= WARM_UP or len(ids) < 2 * passage_tokens + longest + passages:
        raise ValueError(
            f"{len(ids)} ids are too few for {passages} passages of {passage_tokens} with {longest} tokens between"
        )
    generator = np.random.default_rng(seed)
    starts = generator.integers(0, len(ids) - passage_tokens, size=(passages, 2))
    between = generator.integers(0, len(ids) - longest, size=passages)
    scored = slice(-(passage_tokens - WARM_UP), None)
    rows = []
    with scoring(model, device) as place:
        for distance in distances:
            texts = np.stack(
                [
                    np.concatenate(
                        [
                            ids[first : first + passage_tokens],
                            ids[middle : middle + distance],
                            ids[again : again + passage_tokens],
                        ]
                    )
                    for (again, other), middle in zip(starts, between, strict=True)
                    for first in (again, other)
                ]
            )
            losses = torch.cat(
                [
                    score_rows(model, torch.from_numpy(part).to(place), tokens_a_step)[0].cpu()
                    for part in np.array_split(texts, -(-len(texts) // batch_size))
                ]
            )
            read, unread = losses[:, scored].mean(1).numpy().reshape(passages, 2).T
            gain = mean_interval(unread - read)
            rows.append({"distance": distance, **gain.columns("gain"), "passages": passages})
    return pd.DataFrame(rows)
