"""How likely the endings of token sequences are: what LAMBADA, WikiText and the harness all ask a model."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence
from transformers import PreTrainedModel

from newllm.evaluation.perplexity import rows_at_once, score_rows, scoring
from newllm.progress import stage

# The Pythia suite's; for models whose config names no longest sequence, because they have none.
USUAL_WINDOW = 2048


@dataclass(frozen=True)
class Ending:
    """A sequence of ids, of which the last ``length`` are asked for.

    Attributes
    ----------
    ids
        Context and ending.
    length
        Ids of the ending; at least one id comes before it.
    """

    ids: list[int]
    length: int

    def __post_init__(self) -> None:
        if not 1 <= self.length < len(self.ids):
            raise ValueError(f"an ending of {self.length} tokens needs a token before it, in {len(self.ids)} tokens")


@dataclass(frozen=True)
class EndingScore:
    """What a model says of an ending.

    Attributes
    ----------
    log_likelihood
        Sum over the ending's tokens, nats.
    greedy
        Whether each of them was the model's first guess.
    """

    log_likelihood: float
    greedy: bool


def usual_window(model: PreTrainedModel) -> int:
    """Return how many tokens a model reads at most where nothing else is asked for: its longest sequence, or 2048."""
    return int(getattr(model.config, "max_position_embeddings", USUAL_WINDOW))


def checked_window(model: PreTrainedModel, window: int | None) -> int:
    """Return the window given, or the model's usual one; ValueError below 1."""
    if window is not None and window < 1:
        raise ValueError(f"window={window} must be 1 or more tokens.")
    return usual_window(model) if window is None else window


def score_endings(
    model: PreTrainedModel,
    endings: Sequence[Ending],
    *,
    window: int | None = None,
    batch_size: int = 8,
    device: torch.device | str | None = None,
    tokens_a_step: int | None = None,
    description: str = "scoring",
) -> list[EndingScore]:
    """Score endings, each sequence from an empty cache.

    Parameters
    ----------
    model
        Any causal language model.
    endings
        What to score.
    window
        Tokens that the model reads at most: of a longer sequence the beginning is cut off. The model's longest sequence
        where omitted (2048 for models that have none).
    batch_size
        Sequences at once; fewer where their logits would not fit in 256 MB.
    device
        Where to score; the model's own device where omitted.
    tokens_a_step
        None scores a sequence in one pass. A number sends it through the cache, that many tokens a call: for methods
        whose cache remembers less than the full pass sees.
    description
        Of the progress bar, which is shown after two seconds.

    Returns
    -------
    list of EndingScore
        In the order of the endings.

    Raises
    ------
    ValueError
        Where an ending is longer than the window.
    """
    longest = checked_window(model, window)
    for ending in endings:
        if ending.length > longest:
            raise ValueError(f"an ending of {ending.length} tokens does not fit into a window of {longest} tokens.")
    rows = [ending.ids[-longest - 1 :] for ending in endings]
    found: dict[int, EndingScore] = {}
    with scoring(model, device) as place, stage(description, len(rows), "text") as told:
        for index, losses, hits in score_sequences(model, rows, place, batch_size, tokens_a_step):
            asked = slice(-endings[index].length, None)
            found[index] = EndingScore(-losses[asked].sum().item(), bool(hits[asked].all()))
            told.advance()
    return [found[index] for index in range(len(rows))]


def score_sequences(
    model: PreTrainedModel,
    rows: Sequence[list[int]],
    device: torch.device,
    batch_size: int,
    tokens_a_step: int | None = None,
) -> Iterator[tuple[int, Tensor, Tensor]]:
    """Score every token but the first of sequences that may differ in length, each from an empty cache.

    Parameters
    ----------
    model
        Any causal language model, as `newllm.evaluation.perplexity.scoring` gives it.
    rows
        The sequences, each of at least two ids.
    device
        Where the model is.
    batch_size
        Sequences at once; fewer where their logits would not fit in 256 MB.
    tokens_a_step
        As for `score_endings`.

    Yields
    ------
    tuple[int, Tensor, Tensor]
        Index of a sequence of T + 1 ids, the losses (T,) of its tokens in nats, and whether each was the model's first
        guess (T,); the longest sequence first.
    """
    # Sequences of one length need little padding.
    order = sorted(range(len(rows)), key=lambda index: len(rows[index]), reverse=True)
    for batch in _batches(order, rows, batch_size, tokens_a_step, model.config.vocab_size):
        # Padding stands on the right, where a causal model does not see it.
        ids = pad_sequence([torch.tensor(rows[index]) for index in batch], batch_first=True).to(device)
        losses, hits = score_rows(model, ids, tokens_a_step)
        for row, index in enumerate(batch):
            scored = slice(len(rows[index]) - 1)
            yield index, losses[row, scored], hits[row, scored]


def _batches(
    order: list[int], rows: Sequence[list[int]], batch_size: int, tokens_a_step: int | None, vocabulary: int
) -> Iterator[list[int]]:
    """Cut the order, longest first, into batches whose logits fit."""
    start = 0
    while start < len(order):
        size = rows_at_once(batch_size, tokens_a_step or len(rows[order[start]]), vocabulary)
        yield order[start : start + size]
        start += size
