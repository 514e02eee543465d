"""A trained model and its tokenizer, by where they are: a trial of a run, a saved model, or a Pythia on the hub."""

import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import huggingface_hub
import torch
from safetensors import SafetensorError
from transformers import PreTrainedTokenizerFast

from newllm.data.hub import ask_hub
from newllm.files import SAVED_MODEL, outputs_folder
from newllm.models.language_model import LanguageModel
from newllm.models.registry import METHODS, find
from newllm.runtime import errors_only

CONFIG = "config.json"


WEIGHTS = "model.safetensors"


TOKENIZER = "tokenizer.json"


# What transformers calls the published Pythias, whose weights are those of ours by name.
PUBLISHED_TYPE = "gpt_neox"


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
    """

    model: LanguageModel
    tokenizer: PreTrainedTokenizerFast
    method: str


def local_folder(where: str | Path) -> Path | None:
    """Return the folder of this name, here or below the outputs; None where there is none, so that it is a hub id."""
    given = Path(where).expanduser()
    return next((place for place in (given, outputs_folder() / given) if place.is_dir()), None)


def find_saved_model(where: str | Path) -> Path:
    """Find the folder of a saved model; a hub id is fetched.

    Parameters
    ----------
    where
        The folder of a run's trial, or of a saved model; from the working directory or from the outputs folder. Or the
        hub id of a Pythia, such as EleutherAI/pythia-70m: then its configuration, tokenizer and safetensors weights
        are fetched into the hub's own cache.

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
    folder = local_folder(where)
    if folder is None:
        return _fetch(str(where))
    if (folder / SAVED_MODEL / CONFIG).is_file():
        folder = folder / SAVED_MODEL
    if not (folder / CONFIG).is_file():
        trials = sorted(path.parent.parent.name for path in folder.glob(f"*/{SAVED_MODEL}/{CONFIG}"))
        hint = (
            f"give one of its trials: {', '.join(trials)}" if trials else "give the folder of a finished trial of a run"
        )
        raise LoadingError(f"{folder} holds no model: {hint}.")
    return _complete(folder)


def _fetch(name: str) -> Path:
    """Fetch a hub model; what looks like a path is not asked for."""
    beginning = Path(name).parts[0] if name else name
    is_path = beginning == "outputs" or any((place / beginning).exists() for place in (Path.cwd(), outputs_folder()))
    if is_path or not re.fullmatch(r"\w[\w.-]*(/[\w.-]+)?", name):
        raise LoadingError(f"there is no folder {name} (seen from {Path.cwd()} and from {outputs_folder()}).")
    fetched = ask_hub(
        lambda: huggingface_hub.snapshot_download(name, allow_patterns=["*.json", "*.safetensors"]),
        f"the model {name}",
        "the folder of a run's trial",
    )
    return _complete(Path(fetched))


def _complete(folder: Path) -> Path:
    if not any(folder.glob("*.safetensors")):
        raise LoadingError(f"{folder} holds no {WEIGHTS}, and weights of another form are not read.")
    return folder


def load_model(where: str | Path, *, method: str | None = None) -> LanguageModel:
    """Load a model, float32, in eval mode, on the CPU; no code of its own is run, and nothing is unpickled.

    Parameters
    ----------
    where
        As for :func:`find_saved_model`.
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
        As for :func:`load_model`.

    Raises
    ------
    LoadingError
        As for :func:`load_model`; or the tokenizer is missing, or that of another model.
    HubUnavailableError
        The hub did not answer.
    """
    folder = find_saved_model(where)
    if not (folder / TOKENIZER).is_file():
        raise LoadingError(
            f"{folder} holds no {TOKENIZER}: save the model's tokenizer beside it, with tokenizer.save_pretrained(...)."
        )
    method = _method_of(folder) if method is None else method
    model = _load(folder, method)
    tokenizer = PreTrainedTokenizerFast.from_pretrained(folder)
    if len(tokenizer) > model.config.vocab_size:
        raise LoadingError(
            f"{folder} has a tokenizer of {len(tokenizer)} tokens, but its model knows {model.config.vocab_size}: they "
            "do not belong together."
        )
    if tokenizer.eos_token_id is None:
        raise LoadingError(f"{folder} has a tokenizer without an end-of-text token.")
    return TrainedModel(model, tokenizer, method)


def _load(folder: Path, method: str) -> LanguageModel:
    try:
        model_class = find(method).model_class
        # What it would report of other weights is refused in one sentence below.
        with errors_only():
            loaded: Any = model_class.from_pretrained(
                folder,
                dtype=torch.float32,
                output_loading_info=True,
                use_safetensors=True,
                local_files_only=True,
                ignore_mismatched_sizes=True,  # they are listed, and refused below
            )
    except (OSError, ValueError, RuntimeError, TypeError, SafetensorError) as error:
        raise LoadingError(f"{folder} cannot be loaded as {method}: {_first_line(error)}") from error
    model, info = loaded
    _refuse_other_weights(folder, method, info)
    return cast(LanguageModel, model.eval())


def _stored_type(folder: Path) -> str | None:
    return cast(str | None, json.loads((folder / CONFIG).read_text(encoding="utf-8")).get("model_type"))


def _method_of(folder: Path) -> str:
    """Name the model of a stored configuration; controls such as ``narrow`` are Pythias."""
    model_type = _stored_type(folder)
    if model_type == PUBLISHED_TYPE:
        return "pythia"
    for name in ("pythia", *METHODS):
        if find(name).config_class.model_type == model_type:
            return name
    raise LoadingError(
        f"{folder} holds a model of the type {model_type!r}: only those of newllm and published Pythias are evaluated."
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
            f"the weights in {folder}, of a {_stored_type(folder)}, are not those of {method} "
            f"({described}; one is {first})."
        )


def _first_line(error: Exception) -> str:
    reason = error.__cause__ or error
    return next(iter(str(reason).strip().splitlines()), type(reason).__name__)
