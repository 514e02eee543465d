"""A trained model and its tokenizer, by where they are: a trial of a run, a saved model, or a Pythia on the hub."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import huggingface_hub
import torch
from transformers import AutoConfig, PreTrainedTokenizerFast

from newllm.data.hub import DEADLINE_SECONDS, DOWNLOAD_DEADLINE_SECONDS, ask_hub
from newllm.data.tokenizers import read_saved_tokenizer, refuse_unsuitable, tokenizer_identity
from newllm.files import (
    FINISHED_FILE,
    SAVED_MODEL,
    DamagedFileError,
    digest_of_file,
    digest_of_json,
    is_local_model,
    local_folder,
    local_gguf,
    why_no_model,
)
from newllm.models.language_model import LanguageModel
from newllm.models.published_llama import READERS
from newllm.models.registry import BASELINE, LLAMA, METHODS, find
from newllm.runs.contents import damaged_model_file
from newllm.runs.gguf import unpack_gguf
from newllm.runs.missing_weights import why_without_weights
from newllm.runtime import errors_only
from newllm.wording import first_line

CONFIG = "config.json"
WEIGHTS = "model.safetensors"
TOKENIZER = "tokenizer.json"

# Fields of a configuration that say who wrote it.
NOT_OF_THE_MODEL = ("_name_or_path", "transformers_version")

# What transformers calls models whose weights are those of ours by name, and what they are called here.
PUBLISHED_TYPES = {"gpt_neox": BASELINE, **dict.fromkeys(READERS, LLAMA)}


class LoadingError(ValueError):
    """A model that cannot be loaded; one sentence says why and what to do."""


@dataclass(frozen=True)
class TrainedModel:
    """A model with the tokenizer that it was trained with.

    Attributes
    ----------
    model
        The model, float32, in eval mode, on the CPU.
    tokenizer
        Its tokenizer.
    method
        Which model it is, by a name of the registry.
    digest
        SHA-256 of all that decides its answers, as `model_digest` gives it.
    """

    model: LanguageModel
    tokenizer: PreTrainedTokenizerFast
    method: str
    digest: str


def find_saved_model(where: str | Path) -> Path:
    """Find the folder of a saved model; a hub id is fetched.

    Parameters
    ----------
    where
        The folder of a run's trial, or of a saved model; from the working directory or from the outputs folder. Or a
        GGUF file, which is unpacked once. Or the hub id of a Pythia, such as EleutherAI/pythia-70m: then its
        configuration, tokenizer and safetensors weights are fetched into the hub's own cache.

    Returns
    -------
    Path
        A folder with a configuration and weights.

    Raises
    ------
    LoadingError
        Where there is no such folder, or it holds no model.
    HubUnavailableError
        The hub did not answer.
    """
    folder, file = local_folder(where), local_gguf(where)
    if file is not None:
        try:
            return unpack_gguf(file)
        except ValueError as error:
            raise LoadingError(str(error)) from error
    if folder is None:
        return _fetch(str(where))
    if (folder / SAVED_MODEL / CONFIG).is_file():
        folder = folder / SAVED_MODEL
    if not (folder / CONFIG).is_file():
        reason = why_without_weights(folder)
        if reason is not None:
            raise LoadingError(reason)
        trials = sorted(path.parent.parent.name for path in folder.glob(f"*/{SAVED_MODEL}/{CONFIG}"))
        hint = (
            f"give one of its trials: {', '.join(trials)}" if trials else "give the folder of a finished trial of a run"
        )
        raise LoadingError(f"{folder} holds no model: {hint}.")
    return _complete(folder)


def _fetch(name: str, *, weights: bool = True) -> Path:
    """Fetch a hub model, or what describes it; what looks like a path, or has no owner, is not asked for."""
    reason = why_no_model(name)
    if reason is not None:
        raise LoadingError(reason)
    patterns = ["*.json", "*.safetensors"] if weights else ["*.json"]
    fetched = ask_hub(
        lambda: huggingface_hub.snapshot_download(name, allow_patterns=patterns),
        f"the model {name}",
        "the folder of a run's trial",
        seconds=DOWNLOAD_DEADLINE_SECONDS if weights else DEADLINE_SECONDS,
    )
    return _complete(Path(fetched)) if weights else Path(fetched)


def _complete(folder: Path) -> Path:
    if not any(folder.glob("*.safetensors")):
        raise LoadingError(f"{folder} holds no {WEIGHTS}, and weights of another form are not read.")
    return folder


def load_model(where: str | Path, *, method: str | None = None) -> LanguageModel:
    """Load a model, float32, in eval mode, on the CPU; no code of its own is run, and nothing is unpickled.

    Parameters
    ----------
    where
        As for `find_saved_model`.
    method
        Put the weights into another model of the registry that takes all of them, such as a Pythia's into ``ka``.

    Raises
    ------
    LoadingError
        Where nothing is there, the model is of a kind that is not known here, or its weights do not fit.
    HubUnavailableError
        The hub did not answer.
    """
    folder = find_saved_model(where)
    return _load(folder, _method_of(folder) if method is None else method)


def load_trained_model(where: str | Path, *, method: str | None = None) -> TrainedModel:
    """Load a model and its tokenizer.

    Parameters
    ----------
    where, method
        As for `load_model`.

    Raises
    ------
    LoadingError
        As for `load_model`; or the tokenizer is missing, or that of another model.
    HubUnavailableError
        The hub did not answer.
    """
    folder = find_saved_model(where)
    method = _method_of(folder) if method is None else method
    tokenizer = _tokenizer_of(folder)
    model = _load(folder, method)
    return TrainedModel(model, tokenizer, method, model_digest(folder))


def check_pretrained(where: str | Path, tokenizer: PreTrainedTokenizerFast | None = None) -> None:
    """Refuse what `load_trained_model` would refuse, by configuration and tokenizer alone: before hours of work.

    Parameters
    ----------
    where
        As for `find_saved_model`; of a hub model, no weights are fetched.
    tokenizer
        The tokenizer that the model's must equal; None where that is not known yet.

    Raises
    ------
    LoadingError
        Where nothing is there, the model is of a kind that is not known here, or its tokenizer is another one.
    HubUnavailableError
        The hub did not answer.
    """
    folder = find_saved_model(where) if is_local_model(where) else _fetch(str(where), weights=False)
    _method_of(folder)
    found = _tokenizer_of(folder)
    if tokenizer is not None and tokenizer_identity(found) != tokenizer_identity(tokenizer):
        raise LoadingError(
            f"{where} has another tokenizer than the text, so that its numbers could not be compared: give the same "
            f"value to tokenizer as to pretrained ({where})."
        )


def model_digest(folder: Path) -> str:
    """SHA-256 of weights, configuration and tokenizer of a saved model: two models of one digest answer alike."""
    config = {name: value for name, value in _stored_config(folder).items() if name not in NOT_OF_THE_MODEL}
    files = [folder / TOKENIZER, *sorted(folder.glob("*.safetensors"))]
    return digest_of_json([config, *(digest_of_file(path) for path in files if path.is_file())])


def _tokenizer_of(folder: Path) -> PreTrainedTokenizerFast:
    """Read a model's tokenizer; LoadingError where it is missing, unreadable, or that of another model."""
    if not (folder / TOKENIZER).is_file():
        raise LoadingError(
            f"{folder} holds no {TOKENIZER}: save the model's tokenizer beside it, with tokenizer.save_pretrained(...)."
        )
    try:
        # Reading a tokenizer reads the configuration too, and would take what is wrong with that for its own.
        AutoConfig.from_pretrained(folder, local_files_only=True)
    except Exception as error:
        raise LoadingError(f"{folder / CONFIG} cannot be read ({_reason(error)}): correct it.") from error
    try:
        tokenizer = read_saved_tokenizer(folder)
        refuse_unsuitable(tokenizer, f"the tokenizer in {folder}")
    except ValueError as error:
        raise LoadingError(str(error)) from error
    known = _stored_config(folder).get("vocab_size")
    if isinstance(known, int) and len(tokenizer) > known:
        raise LoadingError(
            f"{folder} has a tokenizer of {len(tokenizer)} tokens, but its model knows {known}: they do not belong "
            "together."
        )
    return tokenizer


def _load(folder: Path, method: str) -> LanguageModel:
    _refuse_other_files(folder)
    _refuse_preset(folder, method)
    try:
        model_class = find(method).model_class
        # What it would report of other weights is refused in one sentence below.
        with errors_only():
            loaded: Any = model_class.from_pretrained(
                folder,
                dtype=torch.float32,
                return_dict=True,  # evaluation reads outputs by name, whatever the file says
                output_loading_info=True,
                use_safetensors=True,
                local_files_only=True,
                ignore_mismatched_sizes=True,  # they are listed, and refused below
            )
    # A damaged file ends in whatever the libraries stumble over: OSError, KeyError, SafetensorError ...
    except Exception as error:
        raise LoadingError(f"{folder} cannot be loaded as {method}: {_reason(error)}") from error
    model, info = loaded
    _refuse_other_weights(folder, method, info)
    for name, weight in model.named_parameters():
        if not weight.isfinite().all():
            raise LoadingError(f"{folder} holds weights that are not numbers ({name}): it cannot be scored.")
    return cast(LanguageModel, model.eval())


def _refuse_other_files(folder: Path) -> None:
    """Refuse the model of a finished trial where one of its files is not what the trial wrote."""
    trial = folder.parent
    if folder.name != SAVED_MODEL or not (trial / FINISHED_FILE).is_file():
        return
    try:
        damaged = damaged_model_file(trial)
    except DamagedFileError as error:
        raise LoadingError(f"{error}: run the trial again.") from error
    if damaged is not None:
        raise LoadingError(f"{damaged} is damaged or missing (it is not what the trial wrote): run the trial again.")


def _stored_config(folder: Path) -> dict[str, Any]:
    try:
        config = json.loads((folder / CONFIG).read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise LoadingError(f"{folder / CONFIG} cannot be read ({_reason(error)}): save the model again.") from error
    if not isinstance(config, dict):
        raise LoadingError(f"{folder / CONFIG} holds no configuration: save the model again.")
    return config


def _method_of(folder: Path) -> str:
    """Name the model of a stored configuration; controls such as ``narrow`` are Pythias."""
    stored = _stored_config(folder)
    model_type = stored.get("model_type")
    if model_type in PUBLISHED_TYPES:
        return PUBLISHED_TYPES[model_type]
    for name in (BASELINE, *METHODS):
        if find(name).config_class.model_type == model_type:
            return LLAMA if name == BASELINE and stored.get("backbone") == "llama" else name
    raise LoadingError(
        f"{folder} holds a model of the type {model_type!r}: only those of newllm, and published Pythias and Llamas, "
        "are evaluated."
    )


def _refuse_preset(folder: Path, method: str) -> None:
    """Refuse a shape's name, such as ``mqa``, for weights of another shape: they would be read as what they are."""
    stored = _method_of(folder) if method in METHODS else method
    model_class = METHODS[method].model_class if method in METHODS else None
    same_class = (
        name for name in (stored, BASELINE, *METHODS) if name in METHODS and METHODS[name].model_class is model_class
    )
    reader = next(same_class, method)
    if reader != method:
        raise LoadingError(
            f"{method} is a shape of {reader} and no other way to read the weights in {folder}: name {reader}."
        )


def _refuse_other_weights(folder: Path, method: str, info: dict[str, Any]) -> None:
    wrong = {
        name.removesuffix("_keys"): info[name]
        for name in ("missing_keys", "unexpected_keys", "mismatched_keys")
        if info[name]
    }
    if wrong:
        described = ", ".join(f"{len(keys)} {kind}" for kind, keys in wrong.items())
        first = next(iter(next(iter(wrong.values()))))
        raise LoadingError(
            f"the weights in {folder}, of a {_stored_config(folder).get('model_type')}, are not those of {method} "
            f"({described}; one is {first})."
        )


def _reason(error: Exception) -> str:
    """Say what went wrong in one line: transformers wraps what it stumbles over."""
    return first_line(error.__cause__ or error)
