"""The passes of a projection training over a stream: a step each, resumable to the bit."""

import json
import logging
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from newllm.config.groups import ProjectionParameters
from newllm.files import DamagedFileError
from newllm.models.projection import DiverseProjection
from newllm.progress import Stage
from newllm.recurrence.convergence import compute_convergence_rate, effective_rank
from newllm.recurrence.oacd import oacd_terms
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


def usual_passes(parameters: ProjectionParameters) -> int:
    """Say how many passes a training is likely to take."""
    return min(USUAL_PASSES, parameters.max_iterations - 1)


class Passes:
    """A projection training between two passes: contexts, optimiser, generator, history.

    Parameters
    ----------
    projection
        The recurrence, which is on ``device``; it changes in place.
    embeds
        Normed embeddings of the stream (T, E), in CPU memory.
    parameters
        As `newllm.recurrence.training.train_projection` takes them.
    block
        Which recurrence of its model it is, for the history.
    device
        Where to compute.
    seed
        Of the initial contexts and the noise.

    Attributes
    ----------
    history
        As `newllm.recurrence.training.ProjectionResult` has it.
    contexts
        Those of the last pass (T, P), noise included, in CPU memory.
    """

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

    def run(self, resume_file: Path | None, told: Stage, watch: Watcher | None = None) -> None:
        """Pass over the stream until the target or the limit is reached, from where a killed run was.

        Parameters
        ----------
        resume_file, watch
            As `newllm.recurrence.training.train_projection` takes them.
        told
            Is told of each pass.
        """
        if resume_file is not None:
            self._resume(resume_file)
        told.advance(len(self.history))
        passes, counted = self.parameters.max_iterations - 1, usual_passes(self.parameters)
        while not self.converged and len(self.history) < passes:
            row = self.pass_over()
            self.history.append(row)
            if watch is not None:
                watch(row, self.contexts)
            if len(self.history) == counted and not self.converged:
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

    @property
    def converged(self) -> bool:
        """Whether the contexts of the last pass have reached the target."""
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
