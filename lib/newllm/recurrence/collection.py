"""Contexts of a frozen recurrence over a whole stream: token by token, and the same answer parallel in time."""

import math
import numbers
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import cast

import numpy as np
import torch
from torch import Tensor

from newllm.files import atomic_file
from newllm.models.projection import DiverseProjection
from newllm.models.recurrent import RecurrentModel
from newllm.recurrence.convergence import Recurrence
from newllm.recurrence.segments import Verification, run, run_by_hand
from newllm.recurrence.stream import check_stream
from newllm.runtime import move, usable_device

CHUNK_SIZE = 250_000


@dataclass(frozen=True)
class ContextCollection:
    """Contexts of a stream, and what verified them.

    Attributes
    ----------
    contexts
        Context after each token (T, P), on the CPU; memory-mapped where an output file was asked for.
    rounds
        Passes over segments until every start agreed with its predecessor's end (the largest count of any chunk);
        0 where all was run token by token.
    residual
        Largest absolute difference left between a segment's start and its predecessor's end.
    sequential
        True where the recurrence did not contract, and (part of) the stream was run token by token.
    """

    contexts: Tensor
    rounds: int
    residual: float
    sequential: bool


def clear_gpu_cache() -> None:
    """Give memory that torch holds in reserve back to the device; does nothing on a CPU."""
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
    if torch.backends.mps.is_available():
        torch.mps.empty_cache()


def collect_context_cache_sequential(
    model: RecurrentModel, token_ids: Tensor, device: torch.device | str, chunk_size: int = 10_000
) -> Tensor:
    """Collect the contexts of a model's first block token by token: the reference.

    Parameters
    ----------
    model
        A model with a recurrence; moved to ``device``.
    token_ids
        The stream (T,).
    device
        Where to compute. A chunk of the stream is there at a time, so its memory is bounded by ``chunk_size``.
    chunk_size
        Tokens a chunk.

    Returns
    -------
    Tensor
        Context after each token (T, P), on the CPU.

    Raises
    ------
    ValueError
        Where the stream is not one row of at least one token, the model has no recurrence, the machine no such device,
        or a context is not finite.
    """
    return collect_context_cache_sequential_multiblock(model, token_ids, device, 1, chunk_size)


@torch.no_grad()
def collect_context_cache_sequential_multiblock(
    model: RecurrentModel,
    token_ids: Tensor,
    device: torch.device | str,
    num_blocks: int,
    chunk_size: int = 10_000,
) -> Tensor:
    """Collect the contexts of a model's first ``num_blocks`` blocks token by token, side by side.

    Parameters
    ----------
    model
        A model with recurrences; moved to ``device``.
    token_ids
        The stream (T,).
    device
        Where to compute. A chunk of the stream is there at a time, so its memory is bounded by ``chunk_size``.
    num_blocks
        Blocks to run, from the first on.
    chunk_size
        Tokens a chunk.

    Returns
    -------
    Tensor
        Contexts after each token, the blocks' widths one after the other (T, P_1 + ... + P_N), on the CPU.

    Raises
    ------
    ValueError
        Where the stream is not one row of at least one token, the model has fewer blocks, the machine no such device,
        or a context is not finite.
    """
    _check_limits(chunk_size)
    count = len(model.context_blocks) if isinstance(model, RecurrentModel) else 0
    if not 1 <= num_blocks <= count:
        raise ValueError(f"num_blocks={num_blocks}, but this model has {count} context blocks")
    check_stream(token_ids, model.config.vocab_size)
    device = usable_device(str(device))
    blocks = _blocks_on(model, device)[:num_blocks]
    states = [torch.zeros(1, block.proj_dim, device=device, dtype=_dtype_of(model)) for block in blocks]
    contexts = torch.empty(len(token_ids), sum(block.proj_dim for block in blocks), dtype=_dtype_of(model))
    for start in range(0, len(token_ids), chunk_size):
        embeds = model.normed_embeddings(token_ids[start : start + chunk_size].to(device).long())
        done = []
        for index, block in enumerate(blocks):
            done.append(torch.empty(embeds.shape[0], block.proj_dim, device=embeds.device, dtype=embeds.dtype))
            states[index] = run_by_hand(block, embeds, states[index], done[-1])
            _refuse_not_finite(done[-1], start)
        contexts[start : start + chunk_size] = torch.cat(done, dim=-1).cpu()
        del embeds, done
        clear_gpu_cache()
    return contexts


@torch.no_grad()
def collect_context_cache(
    projection: Recurrence,
    embeds: Tensor,
    tolerance: float = 1e-5,
    *,
    chunk_size: int = CHUNK_SIZE,
    output: Path | str | None = None,
) -> ContextCollection:
    """Collect the contexts that the recurrence gives token by token, parallel in time.

    The stream is cut into segments that run side by side as one batch. Each starts from a warm-up over the end of the
    segment before, long enough for a contracting recurrence to forget where the warm-up began. Then every segment whose
    start differs from its predecessor's end by more than ``tolerance`` runs again from that end, until none does. A
    recurrence that does not contract runs token by token, exactly as ``projection`` is called by hand, to the last bit:
    where it amplifies rounding, nothing else gives its contexts. That is found out on a short prefix of the work, so
    that such a stream takes hardly longer than the loop.

    Parameters
    ----------
    projection
        The frozen recurrence.
    embeds
        Normed embeddings of the stream (T, E); may stay on the CPU while ``projection`` is on another device.
    tolerance
        Largest absolute difference allowed between a segment's start and its predecessor's end.
    chunk_size
        Tokens that are on the device at a time; the state is carried from chunk to chunk.
    output
        Write the contexts to this ``.npy`` file and memory-map them; it appears only when it is complete.

    Returns
    -------
    ContextCollection
        The contexts (T, P), with the rounds and the residual of their verification.

    Raises
    ------
    ValueError
        Where the stream is empty, not a matrix or not as wide as the recurrence reads it, the tolerance is
        negative, or a context is not finite.
    """
    if embeds.ndim != 2 or len(embeds) == 0 or not embeds.is_floating_point():
        found = f"{embeds.dtype} {tuple(embeds.shape)}"
        raise ValueError(f"embeds must be real numbers of shape (T, E) with T of at least 1, not {found}")
    if isinstance(projection, DiverseProjection) and embeds.shape[1] != projection.embed_dim:
        raise ValueError(
            f"embeds are {embeds.shape[1]} wide, but this recurrence reads a width of {projection.embed_dim}"
        )
    if projection.proj_dim < 1:
        raise ValueError("a recurrence of width 0 has no contexts to collect")
    _check_limits(chunk_size, tolerance)
    parameter = next(iter(getattr(projection, "parameters", list)()), embeds)
    state = torch.zeros(1, projection.proj_dim, device=parameter.device, dtype=parameter.dtype)
    reports = []
    with _contexts_at(output, len(embeds), projection.proj_dim, parameter.dtype) as contexts:
        for chunk in _even_chunks(len(embeds), chunk_size):
            state, report = _collect_chunk(projection, embeds[chunk].to(state), state, contexts[chunk], tolerance)
            _refuse_not_finite(contexts[chunk], chunk.start)
            reports.append(report)
    return _summarise(contexts, reports)


@torch.no_grad()
def collect_model_contexts(
    model: RecurrentModel,
    token_ids: Tensor,
    device: torch.device | str,
    tolerance: float = 1e-5,
    *,
    chunk_size: int = CHUNK_SIZE,
    output: Path | str | None = None,
) -> ContextCollection:
    """Collect the contexts of all of a model's blocks over a stream of tokens, parallel in time.

    Same answer as `collect_context_cache_sequential_multiblock` with all blocks. Embeddings exist for one chunk
    at a time, so that with ``output`` the stream may be longer than memory.

    Parameters
    ----------
    model
        A model with recurrences; moved to ``device``.
    token_ids
        The stream (T,).
    device
        Where to compute.
    tolerance
        Largest absolute difference allowed between a segment's start and its predecessor's end.
    chunk_size
        Tokens that are on the device at a time; states are carried from chunk to chunk.
    output
        Write the contexts to this ``.npy`` file and memory-map them; it appears only when it is complete.

    Returns
    -------
    ContextCollection
        Contexts (T, P_1 + ... + P_N), with the most rounds and the largest residual of any block.

    Raises
    ------
    ValueError
        Where the stream is not one row of at least one token, the model has no recurrence, the machine no such device,
        or a context is not finite.
    """
    _check_limits(chunk_size, tolerance)
    if not isinstance(model, RecurrentModel):
        raise ValueError(f"{type(model).__name__} has no context block to collect contexts of")
    check_stream(token_ids, model.config.vocab_size)
    device = usable_device(str(device))
    blocks = _blocks_on(model, device)
    widths = [block.proj_dim for block in blocks]
    dtype = _dtype_of(model)
    states = [torch.zeros(1, width, device=device, dtype=dtype) for width in widths]
    reports = []
    with _contexts_at(output, len(token_ids), sum(widths), dtype) as contexts:
        for chunk in _even_chunks(len(token_ids), chunk_size):
            embeds = model.normed_embeddings(token_ids[chunk].to(device).long())
            parts = contexts[chunk].split(widths, dim=-1)
            for index, block in enumerate(blocks):
                states[index], report = _collect_chunk(block, embeds, states[index], parts[index], tolerance)
                _refuse_not_finite(parts[index], chunk.start)
                reports.append(report)
            del embeds
            clear_gpu_cache()
    return _summarise(contexts, reports)


def _collect_chunk(
    projection: Recurrence, embeds: Tensor, state: Tensor, contexts: Tensor, tolerance: float
) -> tuple[Tensor, Verification]:
    """Fill ``contexts`` (T, P) of one chunk on its device, from ``state`` (1, P) on; return the last state."""
    target = contexts if embeds.device == contexts.device else torch.empty_like(contexts, device=embeds.device)
    report = run(projection, embeds, state, target, tolerance)
    if target is not contexts:
        contexts.copy_(target)
    return target[-1:].clone(), report


def _refuse_not_finite(contexts: Tensor, first: int) -> None:
    """Refuse contexts (T, P), the one after token ``first`` being their first, among which one is not finite.

    Nothing verifies them: no start of a segment agrees with one, and what comes after most of them is no number either.
    """
    finite = contexts.isfinite().all(dim=1)
    if not finite.all():
        token = first + int((~finite).nonzero()[0])
        raise ValueError(
            f"the context after token {token} (counted from 0) is not finite: the model's weights are not, or are so "
            "large that its recurrence overflows"
        )


def _even_chunks(tokens: int, chunk_size: int) -> list[slice]:
    """Cut a stream into chunks of at most ``chunk_size`` tokens, about equal, so that no short rest remains."""
    count = math.ceil(tokens / chunk_size)
    return [slice(tokens * index // count, tokens * (index + 1) // count) for index in range(count)]


@contextmanager
def _contexts_at(output: Path | str | None, tokens: int, width: int, dtype: torch.dtype) -> Iterator[Tensor]:
    """Give an empty (tokens, width) matrix to fill: in memory, or in an npy file that is put in place when complete."""
    if output is None:
        yield torch.empty(tokens, width, dtype=dtype)
        return
    if dtype not in (torch.float32, torch.float64):
        raise ValueError(f"contexts of type {dtype} cannot be written to an npy file: use float32 or float64")
    with atomic_file(Path(output)) as partial:
        file = np.lib.format.open_memmap(
            partial, mode="w+", dtype=np.dtype(str(dtype).removeprefix("torch.")), shape=(tokens, width)
        )
        yield torch.from_numpy(file)
        file.flush()


def _summarise(contexts: Tensor, reports: list[Verification]) -> ContextCollection:
    return ContextCollection(
        contexts,
        rounds=max(report.rounds for report in reports),
        residual=max(report.residual for report in reports),
        sequential=any(report.sequential for report in reports),
    )


def _blocks_on(model: RecurrentModel, device: torch.device) -> list[DiverseProjection]:
    """Move the model to the device, return its recurrences."""
    move(model, device)
    return cast(list[DiverseProjection], list(model.context_blocks))


def _dtype_of(model: RecurrentModel) -> torch.dtype:
    return next(model.context_blocks.parameters()).dtype


def _check_limits(chunk_size: int, tolerance: float = 0.0) -> None:
    if not tolerance >= 0:
        raise ValueError(f"tolerance={tolerance} must be 0 or more")
    if not isinstance(chunk_size, numbers.Integral) or isinstance(chunk_size, bool) or chunk_size < 1:
        raise ValueError(f"chunk_size={chunk_size!r} must be a whole number of at least 1")
