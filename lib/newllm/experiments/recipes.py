"""Recipes: how the model of a trial is trained, its recurrences by their treatment and then the rest."""

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from newllm.data import TextData
from newllm.data.tokenizers import tokenizer_identity
from newllm.experiments.arms import Arm
from newllm.experiments.trial import Trial, lender_of
from newllm.files import DamagedFileError
from newllm.models.borrowed_embedding import BorrowedEmbeddingModel
from newllm.models.language_model import LanguageModel
from newllm.models.recipe import CONTEXTS, WINDOWS, Recipe
from newllm.models.recurrent import RecurrentModel
from newllm.processes import is_first
from newllm.recurrence.checkpoint import (
    ProjectionMismatchError,
    load_projection,
    read_fitting_description,
    save_projection,
)
from newllm.recurrence.training import ProjectionResult, train_projections
from newllm.training.embeddings import RANDOM, TokenEmbedding, adopt_embedding, read_embedding
from newllm.training.main import TrainingResult, train
from newllm.training.stream import estimate_stream_seconds, train_on_stream
from newllm.training.timing import estimate_seconds

logger = logging.getLogger(__name__)
TRAINING_FOLDER = "training"


@dataclass(frozen=True)
class Trained:
    """What a recipe did.

    Attributes
    ----------
    main
        Main training.
    projection
        Projection training; None where the arm has none.
    """

    main: TrainingResult
    projection: ProjectionResult | None = None


@dataclass(frozen=True)
class Training:
    """One way of training.

    Attributes
    ----------
    train
        Trains the model of a trial.
    estimate
        Says how many seconds its main training takes, given what `newllm.training.timing.estimate_seconds` takes.
    """

    train: Callable[[Trial, LanguageModel, TextData, Path, torch.device], Trained]
    estimate: Callable[..., float]


def train_projection_of(
    trial: Trial, model: LanguageModel, data: TextData, folder: Path, device: torch.device
) -> ProjectionResult | None:
    """Train the recurrences on the first ``projection_samples`` windows where the arm's treatment is ``oacd``.

    With ``projection_checkpoint`` they are not trained, but loaded. The others leave them as they were initialised:
    ``random`` for good, ``end-to-end`` until main training.
    """
    if not trial.arm.trains_projection:
        return None
    assert isinstance(model, RecurrentModel)
    place, identity = folder / "projection", tokenizer_identity(data.tokenizer)
    if trial.parameters.projection_checkpoint is not None:
        return load_projection(trial.parameters.projection_checkpoint, model, identity)
    result = _earlier_projection(place, model, identity)
    if result is None:
        result = train_projections(
            model,
            data.train.stream(trial.parameters.projection_samples),
            trial.parameters,
            data_split=model.data_split,
            device=device,
            seed=trial.seed,
            resume_folder=place,
        )
        save_projection(place, model, result, identity)
    return result


def check_projection_checkpoint(trials: Sequence[Trial], data: TextData) -> None:
    """Refuse a checkpoint that does not belong to every trial that would begin with it, before one of them is trained.

    Parameters
    ----------
    trials
        What is to be run.
    data
        Their text.

    Raises
    ------
    ProjectionMismatchError, FileNotFoundError
        Where config, tokenizer or embedding differ, as far as it is not lent, or there is no complete checkpoint.
    """
    for trial in trials:
        checkpoint = trial.parameters.projection_checkpoint
        if checkpoint is not None and trial.arm.trains_projection:
            model = trial.arm.build(trial.parameters, len(data.tokenizer), trial.seed)
            assert isinstance(model, RecurrentModel)
            # What embedding is lent is known only once the lender is trained.
            check = load_projection if lender_of(trial) is None else read_fitting_description
            check(checkpoint, model, tokenizer_identity(data.tokenizer))


def _earlier_projection(place: Path, model: RecurrentModel, identity: str) -> ProjectionResult | None:
    """Load what an earlier process trained before it was ended in main training; None where it must be trained."""
    try:
        return load_projection(place, model, identity)
    except FileNotFoundError:
        return None
    except (DamagedFileError, ProjectionMismatchError) as error:
        logger.warning("%s: the projection is trained again.", error)
        return None


def freeze(arm: Arm, model: LanguageModel) -> None:
    """Take out of main training what the arm leaves as it is: its recurrences, unless end-to-end, and its embedding."""
    if isinstance(model, RecurrentModel) and arm.projection != "end-to-end":
        model.freeze_context_blocks()
    frozen = arm.frozen_embedding or (isinstance(model, BorrowedEmbeddingModel) and model.config.freeze_embedding)
    model.get_input_embeddings().requires_grad_(not frozen)


def train_on_windows(trial: Trial, model: LanguageModel, data: TextData, folder: Path, device: torch.device) -> Trained:
    """Train the recurrences by their treatment, then the rest by cross-entropy, each window from an empty cache.

    Of several processes the first one trains the recurrences; main training gives the others what it starts from.
    """
    projection = _prepare(trial, model, data, folder, device) if is_first() else None
    freeze(trial.arm, model)
    main = train(model, data, trial.parameters, folder / TRAINING_FOLDER, seed=trial.seed, device=device)
    return Trained(main, projection)


def _prepare(
    trial: Trial, model: LanguageModel, data: TextData, folder: Path, device: torch.device
) -> ProjectionResult | None:
    """Give a model its embedding where the arm has a lent one, and train its recurrences by their treatment."""
    lender = lender_of(trial)
    if lender is not None:
        adopt_embedding(model, _lent_by(lender, for_head=model.config.tie_word_embeddings), data.tokenizer)
    return train_projection_of(trial, model, data, folder, device)


def _lent_by(lender: Trial, *, for_head: bool) -> TokenEmbedding:
    """Read the embedding of a finished trial, by the name of its folder, which holds on every machine."""
    place = lender.run().folder
    return replace(read_embedding(str(place), for_head=for_head), source=place.name)


def prepare_context_blocks(
    trial: Trial, model: LanguageModel, data: TextData, folder: Path, device: torch.device
) -> ProjectionResult | None:
    """Give a model its embedding, train its context blocks by their treatment, and freeze what shall be frozen.

    The embedding is that of ``embedding_source``, or of `newllm.experiments.trial.lender_of`, which must be
    finished. The latter lends its output rows, which its few epochs have taught more than the input rows, also where
    they are not going to be a head: arms that differ in their head alone have the same embedding.
    """
    source, lender = model.config.embedding_source, lender_of(trial)
    if lender is not None:
        adopt_embedding(model, _lent_by(lender, for_head=True), data.tokenizer)
    elif source != RANDOM:
        adopt_embedding(model, read_embedding(source, for_head=model.config.tie_word_embeddings), data.tokenizer)
    blocks = replace(trial, parameters=trial.parameters.for_context_blocks())
    projection = train_projection_of(blocks, model, data, folder, device)
    freeze(trial.arm, model)
    return projection


def train_on_contexts(
    trial: Trial, model: LanguageModel, data: TextData, folder: Path, device: torch.device
) -> Trained:
    """Train the context blocks of a model, then what reads their contexts, on one continuous stream."""
    assert isinstance(model, BorrowedEmbeddingModel)
    projection = prepare_context_blocks(trial, model, data, folder, device)
    main = train_on_stream(model, data, trial.parameters, folder / TRAINING_FOLDER, seed=trial.seed, device=device)
    return Trained(main, projection)


# How each recipe that a model class declares is followed; a new way of training is two functions and an entry here.
RECIPES: dict[Recipe, Training] = {
    WINDOWS: Training(train_on_windows, estimate_seconds),
    CONTEXTS: Training(train_on_contexts, estimate_stream_seconds),
}
