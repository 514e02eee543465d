"""Training of the recurrence before any label is seen (OACD)."""

import copy
import json
import logging
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, cast

import torch
from torch import Tensor, nn

from newllm.config.groups import ProjectionParameters
from newllm.files import DamagedFileError
from newllm.models.projection import DiverseProjection
from newllm.models.recurrent import RecurrentModel
from newllm.progress import PROJECTION, Stage, stage
from newllm.recurrence.convergence import compute_convergence_rate, effective_rank
from newllm.recurrence.oacd import oacd_terms
from newllm.recurrence.stream import check_stream
from newllm.runtime import move
from newllm.tensor_files import (
    digest_of_tensors,
    load_optimizer_tensors,
    optimizer_tensors,
    read_tensors,
    write_tensors,
)

logger = logging.getLogger(__name__)
Watcher = Callable[[Mapping[str, Any], Tensor], None]
RESUME_EVERY = 10

# Passes until the target is reached, where it is: 30 to 40 for windows, and all of 59 for some context blocks.
USUAL_PASSES = 45
PROJECTION_SETTINGS = (
    "projection_lr",
    "initial_context_std",
    "proj_noise",
    "max_iterations",
    "convergence_threshold",
    "convergence_target",
    "centroid_weight",
    "projection_batch_size",
    "projection_clip",
)


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
    with stage(PROJECTION, _usual_passes(parameters), "pass") as told:
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
        training = _Training(projection, embeds, parameters, block, torch.device(device), seed)
        return training.run(resume_file, told, watch)


def _usual_passes(parameters: ProjectionParameters) -> int:
    return min(USUAL_PASSES, parameters.max_iterations - 1)


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
    training = _Training(projection, embeds, parameters, 0, torch.device(device), seed=0)
    training.pass_over()
    start = time.perf_counter()
    training.pass_over()
    seconds = time.perf_counter() - start
    # The rank is taken once a pass, of as many rows at most, the rest once a token.
    return _usual_passes(parameters) * seconds * len(token_ids) / len(part)


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
    with stage(PROJECTION, count * _usual_passes(parameters), "pass") as told:
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


class _Training:
    """State of a projection training between two passes: contexts, optimiser, generator, history."""

    def __init__(
        self,
        projection: DiverseProjection,
        embeds: Tensor,
        parameters: ProjectionParameters,
        block: int,
        device: torch.device,
        seed: int,
    ) -> None:
        self.projection, self.embeds, self.parameters = projection, embeds, parameters
        self.block, self.device = block, device
        self.optimizer = torch.optim.Adam(projection.parameters(), lr=parameters.projection_lr)
        # On the CPU on every machine, so that a seed means the same noise everywhere.
        self.generator = torch.Generator().manual_seed(seed)
        self.history: list[dict[str, Any]] = []
        self.identity = self._identity(seed)
        # Iteration 0: contexts are drawn, nothing is updated.
        self.contexts = self._draw(len(embeds)).mul_(parameters.initial_context_std)

    def run(self, resume_file: Path | None, told: Stage, watch: Watcher | None = None) -> ProjectionResult:
        """Pass over the stream until the target or the limit is reached."""
        if resume_file is not None:
            self._resume(resume_file)
        told.advance(len(self.history))
        passes, counted = self.parameters.max_iterations - 1, _usual_passes(self.parameters)
        while not self._converged and len(self.history) < passes:
            row = self.pass_over()
            self.history.append(row)
            if watch is not None:
                watch(row, self.contexts)
            if len(self.history) == counted and not self._converged:
                # From here on nobody knows: as many as are allowed are counted.
                told.total = (told.total or 0) + passes - counted
                counted = passes
            told.advance(converged=row["convergence_rate"], rank=row["effective_rank"])
            if resume_file is not None and len(self.history) % RESUME_EVERY == 0:
                self._save(resume_file)
        told.total = (told.total or 0) + len(self.history) - counted
        told.advance(0)
        if resume_file is not None:
            self._save(resume_file)
        return ProjectionResult(self.history, self._converged)

    @property
    def _converged(self) -> bool:
        return bool(self.history) and self.history[-1]["convergence_rate"] >= self.parameters.convergence_target

    def _draw(self, rows: int) -> Tensor:
        return torch.randn(rows, self.projection.proj_dim, generator=self.generator, dtype=self.embeds.dtype)

    def pass_over(self) -> dict[str, Any]:
        """One pass over the stream and one optimiser step."""
        settings, tokens = self.parameters, len(self.embeds)
        starts = range(0, tokens, settings.projection_batch_size)
        distance = centroid = converged = 0.0
        # The context before a mini-batch, kept from being overwritten by the one before it.
        before = torch.zeros_like(self.contexts[:1])
        self.optimizer.zero_grad()
        for start in starts:
            batch = slice(start, start + settings.projection_batch_size)
            previous = self.contexts[batch]
            shifted = torch.cat([before, previous[:-1]])
            before = previous[-1:].clone()
            shifted += self._draw(len(previous)).mul_(settings.proj_noise)
            contexts = self.projection(shifted.to(self.device), self.embeds[batch].to(self.device))
            terms = oacd_terms(contexts)
            (terms.loss(settings.centroid_weight) / len(starts)).backward()
            contexts = contexts.detach()
            rate = compute_convergence_rate(contexts, previous.to(self.device), settings.convergence_threshold)
            converged += rate * len(previous)
            distance += terms.distance.item() / len(starts)
            centroid += terms.centroid.item() / len(starts)
            self.contexts[batch] = contexts.cpu()
        nn.utils.clip_grad_norm_(self.projection.parameters(), settings.projection_clip)
        self.optimizer.step()
        return {
            "block": self.block,
            "iteration": len(self.history) + 1,
            "loss": distance + settings.centroid_weight * centroid,
            "distance_term": distance,
            "centroid_term": centroid,
            "convergence_rate": converged / tokens,
            "effective_rank": effective_rank(self.contexts),
        }

    def _identity(self, seed: int) -> str:
        """Digest of all that decides the training's numbers."""
        settings = {name: getattr(self.parameters, name) for name in PROJECTION_SETTINGS} | {
            "seed": seed,
            "block": self.block,
        }
        tensors = {f"projection.{name}": value for name, value in self.projection.state_dict().items()}
        return digest_of_tensors(tensors | {"embeds": self.embeds}, {"settings": json.dumps(settings)})

    def _save(self, path: Path) -> None:
        tensors = {f"projection.{name}": value for name, value in self.projection.state_dict().items()}
        tensors |= {f"optimizer.{name}": value for name, value in optimizer_tensors(self.optimizer).items()}
        tensors |= {"contexts": self.contexts, "generator": self.generator.get_state()}
        write_tensors(path, tensors, {"identity": self.identity, "history": json.dumps(self.history)})

    def _resume(self, path: Path) -> None:
        """Go on from the file, if it is there, whole, and belongs to this training."""
        try:
            tensors, metadata = read_tensors(path)
        except FileNotFoundError:
            return
        except DamagedFileError as error:
            logger.warning("%s: projection training starts from its beginning.", error)
            return
        if metadata["identity"] != self.identity:
            logger.warning("%s belongs to another projection training: this one starts from its beginning", path)
            return
        self.history = json.loads(metadata["history"])
        self.contexts = tensors["contexts"]
        self.generator.set_state(tensors["generator"])
        self.projection.load_state_dict(_below("projection.", tensors))
        load_optimizer_tensors(self.optimizer, _below("optimizer.", tensors))
        logger.info("projection training goes on after pass %d", len(self.history))


def _below(prefix: str, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """Return the tensors whose names begin so, under the rest of their names."""
    return {name.removeprefix(prefix): value for name, value in tensors.items() if name.startswith(prefix)}


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
