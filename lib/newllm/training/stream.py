"""Training of what reads contexts of one continuous stream: collected once, or with an embedding that changes them."""

import logging
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from newllm.config.groups import StreamParameters
from newllm.data import TextData, TokenWindows
from newllm.models.borrowed_embedding import BorrowedEmbeddingModel
from newllm.models.projection import unroll_side_by_side
from newllm.recurrence.collection import collect_model_contexts
from newllm.runtime import move
from newllm.training.embeddings import refuse_unknowing_embedding
from newllm.training.main import TrainingResult, train
from newllm.training.timing import estimate_seconds

logger = logging.getLogger(__name__)
CONTEXTS = "contexts.npy"

# Held-out windows whose recurrences run side by side.
WINDOWS_AT_ONCE = 64

# Chunks within a stretch, at least, where the model remembers by chunks: with chunks of 100, stretches of 512 will do.
LEAST_CHUNKS = 5


class Stretches(Dataset[dict[str, Tensor]]):
    """One stream cut into stretches, with the contexts that the model reads in each, carried on throughout.

    A stretch holds ``length + 1`` ids, its last one is the first of the next; the last stretch may be shorter.

    Parameters
    ----------
    token_ids
        The stream (T,).
    contexts
        Contexts after each of its tokens (T, P); may be memory-mapped.
    length
        Predictions in a stretch.
    previous
        Whether a token is read beside the contexts before it, not beside those after it.
    """

    def __init__(self, token_ids: Tensor, contexts: Tensor, length: int, previous: bool) -> None:
        self.token_ids = token_ids
        self.contexts = contexts
        self.length = length
        self.shift = int(previous)

    def __len__(self) -> int:
        return -(-(len(self.token_ids) - 1) // self.length)

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        """Stretch number ``index``: ``input_ids`` and ``labels`` (n,), equal, and ``contexts`` (n, P)."""
        if not 0 <= index < len(self):
            raise IndexError(f"stretch {index} of {len(self)}")
        start = index * self.length
        ids = self.token_ids[start : start + self.length + 1]
        first = start - self.shift
        contexts = self.contexts[max(first, 0) : first + len(ids)].clone()
        if first < 0:
            contexts = torch.cat([torch.zeros_like(contexts[:1]), contexts])
        return {"input_ids": ids, "labels": ids, "contexts": contexts}


class WindowsWithContexts(Dataset[dict[str, Tensor]]):
    """Held-out windows with the contexts that the model reads, each window from a zero state.

    Parameters
    ----------
    windows
        The windows.
    contexts
        What the model reads in each (windows, seq_length + 1, P).
    """

    def __init__(self, windows: TokenWindows, contexts: Tensor) -> None:
        self.windows = windows
        self.contexts = contexts

    def __len__(self) -> int:
        return len(self.windows)

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        """Window number ``index`` with its contexts."""
        return {**self.windows[index], "contexts": self.contexts[index]}


@dataclass(frozen=True)
class CollectedData:
    """Training stretches and held-out windows with their contexts."""

    train: Stretches
    validation: WindowsWithContexts
    identity: dict[str, str]


def contexts_are_fixed(model: BorrowedEmbeddingModel) -> bool:
    """Tell whether main training changes no context: embedding, its norm and the recurrences are all frozen."""
    parts = (model.embed_in, model.embed_norm, model.context_blocks)
    return not any(parameter.requires_grad for part in parts for parameter in part.parameters())


def collect_training_data(
    model: BorrowedEmbeddingModel, data: TextData, parameters: StreamParameters, output: Path, device: torch.device
) -> CollectedData:
    """Collect all contexts that the model will read in training.

    The training windows are read as the one continuous stream that they are, the state carried from the first token to
    the last. Each held-out window starts from a zero state, as the leaderboard scores it.

    Parameters
    ----------
    model
        A model whose contexts do not change any more.
    data
        Training and held-out windows.
    parameters
        ``stream_tokens``, the predictions in a training stretch, and chunk and tolerance of the collection.
    output
        The ``.npy`` file that takes the contexts of the stream: 4 P bytes a token.
    device
        Where to compute.
    """
    stream = _training_stream(data)
    collection = collect_model_contexts(
        model,
        stream,
        device,
        parameters.collection_tolerance,
        chunk_size=parameters.collection_chunk,
        output=output,
    )
    logger.info(
        "Contexts of %d tokens are collected (rounds: %d, largest difference: %.0e%s).",
        len(stream),
        collection.rounds,
        collection.residual,
        ", token by token" if collection.sequential else "",
    )
    return CollectedData(
        Stretches(stream, collection.contexts, parameters.stream_tokens, model.reads_previous_contexts),
        WindowsWithContexts(data.validation, _window_contexts(model, data.validation, device)),
        data.identity,
    )


@torch.no_grad()
def _window_contexts(model: BorrowedEmbeddingModel, windows: TokenWindows, device: torch.device) -> Tensor:
    """Collect what the model reads in each window from a zero state (windows, seq_length + 1, P)."""
    read = []
    for first in range(0, len(windows), WINDOWS_AT_ONCE):
        rows = range(first, min(first + WINDOWS_AT_ONCE, len(windows)))
        ids = torch.stack([windows[row]["input_ids"] for row in rows]).to(device)
        after = unroll_side_by_side(model.context_blocks, model.normed_embeddings(ids))
        read.append(model.as_read(after).cpu())
    return torch.cat(read)


def estimate_stream_seconds(
    model: BorrowedEmbeddingModel, data: TextData, parameters: StreamParameters, *, device: torch.device
) -> float:
    """Estimate how long `train_on_stream` lasts, collection aside, by timing a few of its steps.

    Parameters
    ----------
    model
        A model such as the one that is going to be trained, frozen like it; it takes a few steps.
    data, parameters, device
        As for `train_on_stream`.

    Returns
    -------
    float
        Seconds.
    """
    if not contexts_are_fixed(model):
        return estimate_seconds(model, data, parameters.for_reader(_windows_a_step(data, parameters)), device=device)
    # Contexts of zeros take as long to read as any.
    stream = _training_stream(data)
    contexts = torch.zeros(1, model.context_width).expand(len(stream), -1)
    stretches = Stretches(stream, contexts, parameters.stream_tokens, model.reads_previous_contexts)
    read = contexts[:1].expand(len(data.validation), data.validation.seq_length + 1, -1)
    collected = CollectedData(stretches, WindowsWithContexts(data.validation, read), data.identity)
    return estimate_seconds(model, collected, parameters.for_reader(1), device=device)


def train_on_stream(
    model: BorrowedEmbeddingModel,
    data: TextData,
    parameters: StreamParameters,
    folder: Path,
    *,
    seed: int,
    device: torch.device,
) -> TrainingResult:
    """Train what is not frozen of a model by cross-entropy, in place, and keep the best weights.

    Where embedding and recurrences are frozen, contexts are collected once, over the training text as one stream, and
    a step is one stretch of ``stream_tokens`` of it. Where either trains, its contexts change with every step: then
    a step is as many windows as have that many tokens, each from a zero state, and the gradient runs through the
    recurrences. Held-out loss is on the held-out windows from a zero state in both cases.

    Parameters
    ----------
    model
        The model; what must not train is frozen already.
    data
        Training and held-out windows.
    parameters
        ``stream_lr`` and ``stream_tokens``, and the settings of main training.
    folder
        As for `newllm.training.main.train`; the contexts lie there while training lasts.
    seed
        Decides the order of the stretches.
    device
        Where to train.

    Raises
    ------
    EmbeddingError
        Where the embedding is frozen, tied to the head, and adopted from nowhere.
    ValueError
        Where stretches are too short for the chunks that the model remembers by.
    """
    refuse_unknowing_embedding(model)
    refuse_short_stretches(model, parameters, data.train.seq_length)
    if not contexts_are_fixed(model):
        each = parameters.for_reader(_windows_a_step(data, parameters))
        return train(model, data, each, folder, seed=seed, device=device)
    move(model, device)
    output = folder / CONTEXTS
    collected = collect_training_data(model, data, parameters, output, device)
    result = train(model, collected, parameters.for_reader(1), folder, seed=seed, device=device)
    output.unlink()
    return result


def _training_stream(data: TextData) -> Tensor:
    """Return all training ids as one stream (T,), the last one, which is only predicted, included."""
    return torch.from_numpy(np.asarray(data.train.token_ids).astype(np.int64))


def _windows_a_step(data: TextData, parameters: StreamParameters) -> int:
    """Say how many windows have as many tokens as a stretch."""
    return max(1, round(parameters.stream_tokens / data.train.seq_length))


def refuse_short_stretches(model: BorrowedEmbeddingModel, parameters: StreamParameters, seq_length: int) -> None:
    """Refuse training in which too few chunks are ever completed before a token that could attend to them.

    Parameters
    ----------
    model
        The model; what must not train is frozen already.
    parameters
        ``stream_tokens`` is what a model of fixed contexts is trained on at a time.
    seq_length
        Tokens of a window, which any other one is trained on.

    Raises
    ------
    ValueError
        Names the parameter that is too small.
    """
    if contexts_are_fixed(model):
        name, tokens, chunks = "stream_tokens", parameters.stream_tokens, LEAST_CHUNKS
    else:
        name, tokens, chunks = "seq_length", seq_length, 1
    least = chunks * model.period
    if model.period > 1 and tokens <= least:
        raise ValueError(
            f"{name}={tokens} must be larger than {least} for chunks of {model.period} tokens: what is remembered of "
            "completed chunks would hardly be read in training"
        )
