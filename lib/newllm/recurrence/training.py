"""Training of the recurrence before any label is seen (OACD)."""

import copy
import logging
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, cast

import torch
from torch import Tensor, nn

from newllm.config.groups import ProjectionParameters
from newllm.models.projection import DiverseProjection
from newllm.models.recurrent import RecurrentModel
from newllm.progress import PROJECTION, Stage, stage
from newllm.recurrence.passes import Passes, Watcher, usual_passes
from newllm.recurrence.stream import check_stream
from newllm.runtime import move

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class ProjectionResult:
    """What came of a projection training.

    Attributes
    ----------
    history
        One row per pass: ``block``, ``iteration`` (from 1 on; iteration 0 makes no pass), ``loss``, its
        ``distance_term`` and ``centroid_term`` (not weighted), each the mean over mini-batches, ``convergence_rate``
        and ``effective_rank`` of the pass's contexts, noise included.
    converged
        True where every block reached the convergence target.
    """

    history: list[dict[str, Any]]
    converged: bool

    @property
    def convergence_rate(self) -> float:
        """Convergence rate of the last pass, of the block where it is lowest."""
        return min(row["convergence_rate"] for row in self._last_rows())

    @property
    def effective_rank(self) -> float:
        """Effective rank of the last pass's contexts, of the block where it is lowest."""
        return min(row["effective_rank"] for row in self._last_rows())

    def _last_rows(self) -> list[dict[str, Any]]:
        return list({row["block"]: row for row in self.history}.values())


def train_projection(
    model: RecurrentModel,
    token_ids: Tensor,
    parameters: ProjectionParameters,
    *,
    block: int = 0,
    device: torch.device | str,
    seed: int,
    resume_file: Path | None = None,
    watch: Watcher | None = None,
) -> ProjectionResult:
    """Train one recurrence of the model by OACD on a fixed stream of tokens, in place.

    Every pass computes all contexts in parallel from the contexts of the pass before, shifted by one token, and makes
    one Adam step. Embeddings and contexts stay in CPU memory; a mini-batch is on the device at a time.

    Parameters
    ----------
    model
        A model with recurrences; moved to ``device``. Only ``model.context_blocks[block]`` changes.
    token_ids
        The stream (T,).
    parameters
        Learning rate, noise, limits and mini-batch size.
    block
        Which recurrence to train.
    device
        Where to compute.
    seed
        Of the initial contexts and the noise.
    resume_file
        Where the state is written every 10 passes, so that a killed training goes on from there with the same numbers
        (to the bit where the number of threads is the same); removed at the end. A damaged one is not used.
    watch
        Called after each pass with its row of the history and its contexts (T, P), noise included, in CPU memory; the
        next pass overwrites them.

    Returns
    -------
    ProjectionResult
        History and whether the target was reached.

    Raises
    ------
    ValueError
        Where the stream is not one row of at least one token, or the model has no such block.
    """
    with stage(PROJECTION, usual_passes(parameters), "pass") as told:
        result = _train_block(model, token_ids, parameters, block, device, seed, resume_file, told, watch)
    if resume_file is not None:
        resume_file.unlink()
    return result


def _train_block(
    model: RecurrentModel,
    token_ids: Tensor,
    parameters: ProjectionParameters,
    block: int,
    device: torch.device | str,
    seed: int,
    resume_file: Path | None,
    told: Stage,
    watch: Watcher | None = None,
) -> ProjectionResult:
    count = len(model.context_blocks) if isinstance(model, RecurrentModel) else 0
    if not 0 <= block < count:
        raise ValueError(f"block={block}, but this model has {count} context blocks")
    check_stream(token_ids, model.config.vocab_size)
    move(model, device)
    projection = cast(DiverseProjection, model.context_blocks[block])
    embeds = _embed(model, token_ids, parameters.projection_batch_size, device)
    with _only_these_train(projection):
        passes = Passes(projection, embeds, parameters, block, torch.device(device), seed)
        passes.run(resume_file, told, watch)
    return ProjectionResult(passes.history, passes.converged)


def estimate_projection_seconds(
    model: RecurrentModel, token_ids: Tensor, parameters: ProjectionParameters, *, device: torch.device | str
) -> float:
    """Estimate how long `train_projection` takes for one recurrence, by one pass over a part of the stream.

    Neither weights nor random state change.

    Parameters
    ----------
    model, token_ids, parameters, device
        As for `train_projection`.
    """
    part = token_ids[: parameters.projection_batch_size]
    projection = copy.deepcopy(cast(DiverseProjection, model.context_blocks[0])).requires_grad_(True)
    embeds = _embed(model, part, parameters.projection_batch_size, device)
    passes = Passes(projection, embeds, parameters, 0, torch.device(device), seed=0)
    passes.pass_over()
    start = time.perf_counter()
    passes.pass_over()
    seconds = time.perf_counter() - start
    # The rank is taken once a pass, of as many rows at most, the rest once a token.
    return usual_passes(parameters) * seconds * len(token_ids) / len(part)


def train_projections(
    model: RecurrentModel,
    token_ids: Tensor,
    parameters: ProjectionParameters,
    *,
    data_split: Literal["disjoint", "full"] = "disjoint",
    device: torch.device | str,
    seed: int,
    resume_folder: Path | None = None,
) -> ProjectionResult:
    """Train every recurrence of the model, one after the other, each from a zero vector.

    Parameters
    ----------
    model
        A model with recurrences; moved to ``device``.
    token_ids
        The stream (T,).
    parameters
        As for `train_projection`.
    data_split
        ``disjoint``: block k of N reads the k-th of N contiguous parts of the stream; ``full``: each reads all of it.
    device
        Where to compute.
    seed
        Block k uses ``seed + k``.
    resume_folder
        Where the state of each block's training is kept until all are trained.

    Returns
    -------
    ProjectionResult
        The rows of all blocks, one block after the other.

    Raises
    ------
    ValueError
        Where the model has no recurrence, or fewer tokens than blocks are given.
    """
    if not isinstance(model, RecurrentModel):
        raise ValueError(f"{type(model).__name__} has no context block to train")
    count = len(model.context_blocks)
    check_stream(token_ids, model.config.vocab_size, count)
    results: list[ProjectionResult] = []
    # A block that was trained before a kill is not trained again: its file says that its training is over.
    resume_files = [
        None if resume_folder is None else resume_folder / f"projection_{block}.resume.safetensors"
        for block in range(count)
    ]
    with stage(PROJECTION, count * usual_passes(parameters), "pass") as told:
        for block, resume_file in enumerate(resume_files):
            part = slice(None)
            if data_split == "disjoint":
                part = slice(len(token_ids) * block // count, len(token_ids) * (block + 1) // count)
            results.append(
                _train_block(model, token_ids[part], parameters, block, device, seed + block, resume_file, told)
            )
    for resume_file in resume_files:
        if resume_file is not None:
            resume_file.unlink()
    return ProjectionResult(
        [row for result in results for row in result.history], all(result.converged for result in results)
    )


def _embed(model: RecurrentModel, token_ids: Tensor, chunk_size: int, device: torch.device | str) -> Tensor:
    """Normed embeddings of the stream (T, E) in CPU memory, made chunk by chunk on the device."""
    embeds: Tensor | None = None
    with torch.no_grad():
        for start in range(0, len(token_ids), chunk_size):
            chunk = model.normed_embeddings(token_ids[start : start + chunk_size].to(device).long())
            if embeds is None:
                embeds = torch.empty(len(token_ids), chunk.shape[-1], dtype=chunk.dtype)
            embeds[start : start + chunk_size] = chunk.cpu()
    assert embeds is not None
    return embeds


@contextmanager
def _only_these_train(projection: nn.Module) -> Iterator[None]:
    """Let gradients reach the projection, frozen or not, and leave it afterwards as it was found."""
    flags = [(parameter, parameter.requires_grad) for parameter in projection.parameters()]
    projection.requires_grad_(True)
    try:
        yield
    finally:
        for parameter, flag in flags:
            parameter.requires_grad_(flag)
            parameter.grad = None
