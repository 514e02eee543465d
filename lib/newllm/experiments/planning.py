"""What can be known before work begins is checked here: without training, tokenising, or asking the hub."""

import shutil
from collections.abc import Iterable, Sequence
from pathlib import Path

import psutil
import torch
from transformers import PreTrainedConfig

from newllm.config.errors import ParameterError
from newllm.config.experiment import ExperimentParameters
from newllm.config.groups import DataParameters, FactParameters, RunParameters, TrainingParameters
from newllm.config.methods import CHECKPOINT_PREFIX
from newllm.config.notebooks import Recall, RetrofitNotebook
from newllm.data.facts import load_facts
from newllm.data.preparation import ASKED, refuse_endless
from newllm.data.sources import HUB_DATASETS, open_source
from newllm.data.tokenizers import read_saved_tokenizer
from newllm.evaluation.calculator import calculate
from newllm.experiments.arms import Arm, ArmError, trained_arms
from newllm.experiments.benchmark_study import check_benchmark_files
from newllm.experiments.checkpoints import Lineage, checkpoints_of, refuse_twins
from newllm.experiments.limits import Group, refuse_endless_warmup, refuse_large_part, refuse_sizes_without_effect
from newllm.experiments.recall_study import check_needles
from newllm.experiments.recipes import freeze
from newllm.experiments.retrofits import check_retrofits
from newllm.experiments.steps import known_windows, steps_a_pass, steps_of_arm
from newllm.experiments.trial import Trial, lender_of
from newllm.files import (
    PROJECTION_DESCRIPTION,
    cache_folder,
    is_local_model,
    nearest_existing,
    refuse_unwritable,
    why_no_model,
)
from newllm.models.borrowed_embedding import BorrowedEmbeddingModel
from newllm.models.language_model import LanguageModel
from newllm.runs.saved_model import check_pretrained, find_saved_model
from newllm.runtime import usable_device
from newllm.training.embeddings import RANDOM, local_embedding, refuse_random_head
from newllm.training.stream import refuse_short_stretches

# Where a vocabulary is a tokenizer's that is not there yet, its size says nothing about what fits.
UNKNOWN_VOCABULARY = 512

BYTES_A_TOKEN_ID = 4

# Smaller texts are told in bytes, which one decimal of a megabyte would hide.
LEAST_IN_MEGABYTES = 100_000


def check_before_work(parameters: RunParameters) -> None:
    """Refuse what would fail later: places, devices, texts, arms and embeddings that there are not, or do not fit.

    Parameters
    ----------
    parameters
        Of any notebook.

    Raises
    ------
    ParameterError
        In one sentence: what is wrong, and what to do.
    """
    try:
        if parameters.output_folder is not None:
            refuse_unwritable(parameters.output_folder)
        check_device(parameters)
        if isinstance(parameters, FactParameters):
            load_facts(parameters.facts_file)
        if isinstance(parameters, DataParameters):
            check_text(parameters)
        if isinstance(parameters, ExperimentParameters):
            check_trials([(parameters, trained_arms(parameters))])
            check_benchmark_files(parameters)
            if isinstance(parameters, RetrofitNotebook):
                check_retrofits(parameters)
            if isinstance(parameters, Recall):
                check_needles(parameters)
            _check_saved_models(parameters)
        elif isinstance(parameters, TrainingParameters):
            refuse_large_part(parameters.micro_batch_size, parameters.batch_size)
            windows = known_windows(parameters)
            if windows is not None:
                refuse_endless_warmup(parameters, steps_a_pass(parameters, windows))
    except OSError as error:
        # Our own sentences come without a file name of the system's.
        said = f"{error.filename} cannot be read ({error.strerror})" if error.filename else str(error)
        raise ParameterError(f"{said.removesuffix('.')}.") from error
    except ValueError as error:
        raise ParameterError(f"{str(error).removesuffix('.')}.") from error


def check_trials(groups: Sequence[Group]) -> None:
    """Refuse what no comparison, no sweep and no single trial can train, or would train without an effect.

    Parameters
    ----------
    groups
        Of a comparison and of a trial one, of a sweep as many as its grid has points.

    Raises
    ------
    ValueError
        Where an arm cannot be trained, sizes have no effect, a warm-up takes all steps, or a projection checkpoint is
        not there or not used.
    """
    _check_checkpoints(groups)
    for parameters, arms in groups:
        _check_arms(arms, parameters)
    refuse_sizes_without_effect(groups)
    for parameters, arms in groups:
        windows = known_windows(parameters)
        if windows is not None:
            for arm in arms:
                refuse_endless_warmup(parameters, steps_of_arm(arm, parameters, windows), arm.name)


def _check_arms(arms: Iterable[Arm], parameters: ExperimentParameters) -> None:
    """Build every arm, and the baseline that lends it an embedding, on the meta device, and see that it can be trained.

    Raises
    ------
    ValueError
        Where one cannot be built or trained with these parameters, or does not fit into memory.
    """
    for arm in arms:
        trial = Trial(arm, parameters.seeds[0] if parameters.seeds else 0, parameters, Path(), "")
        model = _on_meta(arm, parameters)
        if parameters.gradient_checkpointing and not model.supports_gradient_checkpointing:
            raise ValueError(
                f"arm {arm.name!r} has no blocks to make activations of again: leave gradient_checkpointing out"
            )
        lender = lender_of(trial)
        if lender is not None:
            try:
                _on_meta(lender.arm, parameters)
            except ValueError as error:
                raise ArmError(f"arm {arm.name!r} begins with an embedding that cannot be lent: {error}") from error
        try:
            model.refuse_short_windows(parameters.seq_length)
            _refuse_rounding(arm, model, parameters)
            if isinstance(model, BorrowedEmbeddingModel):
                _check_stream(arm, model, parameters)
        except ValueError as error:
            raise ArmError(f"arm {arm.name!r}: {error}") from error


def check_text(parameters: DataParameters) -> None:
    """Refuse files that are not there, and more windows than a source has bytes or the disk has room for, or an end.

    Raises
    ------
    ValueError, FileNotFoundError
        Where the text is not there, or too short.
    """
    tokenizer = Path(parameters.tokenizer).expanduser()
    if parameters.tokenizer.endswith(".json") and not tokenizer.is_file():
        raise ValueError(f"tokenizer is {parameters.tokenizer!r}, but there is no such file (seen from {Path.cwd()})")
    refuse_endless(parameters)
    asked = {name: getattr(parameters, name) for name in ASKED.values()}
    # All windows of a side are at least one.
    tokens = sum(1 if count == "all" else count for count in asked.values()) * parameters.seq_length
    if parameters.source in HUB_DATASETS:
        _refuse_larger_than_disk(tokens, parameters)
        return
    # A token has a byte at least, and each document one more token, its end. Reading ends where there is enough.
    most = 0
    for document in open_source(parameters.source, parameters.text_files).read():
        most += len(document.text.encode()) + 1
        if most >= tokens:
            return
    size = f"{most / 1e6:,.1f} MB" if most >= LEAST_IN_MEGABYTES else f"{most:,} bytes"
    raise ValueError(
        f"{' and '.join(f'{name} is {count}' for name, count in asked.items())}, but source {parameters.source} has "
        f"{size} of text, less than so many windows of {parameters.seq_length} tokens: ask for fewer, or "
        "take a longer source"
    )


def check_room_for_caches(models: Iterable[str], size: str, contexts: Iterable[int]) -> None:
    """Refuse contexts whose caches, all side by side, are larger than the machine's memory.

    Raises
    ------
    ValueError
        Says how much they take.
    """
    longest = max(contexts, default=1)
    _refuse_larger_than_memory(
        int(calculate(size, longest, models=list(models))["bytes"].sum()), f"caches of {longest:,} tokens"
    )


def _refuse_larger_than_disk(tokens: int, parameters: DataParameters) -> None:
    size, free = tokens * BYTES_A_TOKEN_ID, shutil.disk_usage(nearest_existing(cache_folder())).free
    if size > free:
        raise ValueError(
            f"samples is {parameters.samples}, whose tokens take {size / 1e9:,.0f} GB, but the disk has "
            f"{free / 1e9:,.0f} GB left for them: ask for fewer, or move NEWLLM_CACHE"
        )


def _on_meta(arm: Arm, parameters: ExperimentParameters) -> LanguageModel:
    kind, _, size = parameters.tokenizer.partition(":")
    vocabulary = int(size) if kind == "bpe" else UNKNOWN_VOCABULARY
    # On the meta device a model has shapes and no memory, whatever its size.
    with torch.device("meta"):
        try:
            model = arm.build(parameters, vocabulary, seed=0)
        except (ValueError, RuntimeError, ArithmeticError, AssertionError) as error:
            reason = str(error) or type(error).__name__
            raise ArmError(reason if arm.name in reason else f"arm {arm.name!r}: {reason}") from error
    weights = sum(parameter.numel() * parameter.itemsize for parameter in model.parameters())
    _refuse_larger_than_memory(weights, f"the weights of arm {arm.name!r}")
    return model


def _refuse_larger_than_memory(size: int, what: str) -> None:
    there = psutil.virtual_memory().total
    if size > there:
        raise ValueError(
            f"{what} take {size / 1e9:,.0f} GB, but this machine has {there / 1e9:,.0f} GB of memory: ask for less"
        )


def _refuse_rounding(arm: Arm, model: LanguageModel, parameters: ExperimentParameters) -> None:
    """Refuse a parameter that the arm rounds: trials of other values would have other names and train the same."""
    own = dict(arm.overrides)
    for name, value in arm.settings(parameters).items():
        if name in type(parameters).model_fields and name not in own and getattr(model.config, name) != value:
            rounded = getattr(model.config, name)
            raise ValueError(
                f"{name} is {value}, but there it is rounded to {rounded}: write {name}={rounded}, or one that fits "
                "in every arm"
            )


def _check_stream(arm: Arm, model: BorrowedEmbeddingModel, parameters: ExperimentParameters) -> None:
    """Check what training on a stream needs: an embedding that is there and fits, and stretches of enough chunks."""
    config: PreTrainedConfig = model.config
    freeze(arm, model)
    refuse_short_stretches(model, parameters, parameters.seq_length)
    if config.embedding_source == RANDOM:
        refuse_random_head(model)
    elif config.embedding_source is not None:
        local_embedding(config.embedding_source, width=config.hidden_size)


def check_device(parameters: RunParameters) -> None:
    """Refuse a device that this machine has not, and a precision that the device has not, by a ValueError."""
    device = usable_device(parameters.device)
    if isinstance(parameters, TrainingParameters) and parameters.precision == "tf32" and device.type != "cuda":
        raise ValueError(f"precision is tf32, which {device.type} has not: take float32, or a device of NVIDIA's")


def _check_saved_models(parameters: ExperimentParameters) -> None:
    """Refuse trained models, among the arms or beside them, that cannot be scored on these windows."""
    checkpoints = checkpoints_of(parameters)
    for what, beside in (("pretrained", True), ("checkpoint", False)):
        those = [each for each in checkpoints if each.is_pretrained == beside]
        refuse_twins([each.where for each in those], [each.name for each in those], what)
    for each in checkpoints:
        what = f"pretrained is {each.where!r}" if each.is_pretrained else f"arm '{CHECKPOINT_PREFIX}{each.where}'"
        _check_saved_model(each.where, what, parameters)


def _check_saved_model(name: str, what: str, parameters: ExperimentParameters) -> None:
    """Refuse a trained model that is not there, whose tokenizer cannot be that of the windows, or that knows them.

    The hub is not asked here: a comparison asks it before its first trial.
    """
    reason = why_no_model(name)
    if reason is not None:
        raise ValueError(f"{what}: {reason}")
    tokenizer = parameters.tokenizer
    kind, _, size = tokenizer.partition(":")
    is_local = is_local_model(name)
    if is_local:
        check_pretrained(name)
        try:
            Lineage.of(find_saved_model(name)).refuse_known_text(parameters)
        except ValueError as error:
            raise ValueError(f"{what}: {error}") from error
    if kind == "bpe" and (not is_local or len(read_saved_tokenizer(find_saved_model(name))) != int(size)):
        raise ValueError(f"{what}, whose tokenizer is not {tokenizer!r}: give tokenizer the same value")


def _check_checkpoints(groups: Sequence[Group]) -> None:
    """Refuse a projection checkpoint that is not there, or that no arm begins with."""
    for folder in dict.fromkeys(parameters.projection_checkpoint for parameters, _ in groups):
        if folder is None:
            continue
        if not (folder / PROJECTION_DESCRIPTION).is_file():
            raise ValueError(
                f"projection_checkpoint is {str(folder)!r}, but there is no complete checkpoint (seen from "
                f"{Path.cwd()}): `newllm run 01 --rerun` leaves one in recurrences/as_it_is-seed0/projection of its "
                "run folder"
            )
        those = [arm for parameters, arms in groups if parameters.projection_checkpoint == folder for arm in arms]
        if not any(arm.trains_projection for arm in those):
            raise ValueError("projection_checkpoint is given, but none of arms is trained by OACD: leave it out")
