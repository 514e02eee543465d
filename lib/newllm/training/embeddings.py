"""Token embeddings that know something: from the hub, from a file, or from one of our own finished runs."""

import logging
from dataclasses import dataclass
from pathlib import Path

import torch
from huggingface_hub import hf_hub_download
from safetensors import SafetensorError, safe_open
from torch import Tensor
from transformers import PreTrainedTokenizerFast

from newllm.data.hub import ask_hub
from newllm.data.tokenizers import load_tokenizer, tokenizer_identity
from newllm.files import RUN_FILE, SAVED_MODEL, DamagedFileError, digest
from newllm.models.config import BorrowedEmbeddingConfig
from newllm.models.language_model import LanguageModel
from newllm.runs.contents import damaged_model_file
from newllm.wording import first_line

logger = logging.getLogger(__name__)
WEIGHTS = "model.safetensors"

# What input embeddings are called in checkpoints (ours and GPT-NeoX's, GPT-2's, Llama's and its many relatives'), and
# output embeddings, which are there only where they are not tied.
INPUT_NAMES = ("embed_in.weight", "wte.weight", "embed_tokens.weight")
HEAD_NAMES = ("embed_out.weight", "lm_head.weight")

# As an embedding_source: keep the random rows. Training refuses that where they would be frozen and tied to the head.
RANDOM = "random"
OFFLINE_CHOICE = "embedding_source: the folder of a finished run"


class EmbeddingError(ValueError):
    """An embedding that cannot be read, or that does not fit; the message says why."""


@dataclass(frozen=True)
class TokenEmbedding:
    """A trained token embedding, and what it was trained with.

    Attributes
    ----------
    weight
        One row a token (V, E), in float32.
    source
        Where it comes from, as given to `read_embedding`.
    tokenizer_identity
        Identity of the tokenizer whose ids its rows are; None where the source does not tell.
    """

    weight: Tensor
    source: str
    tokenizer_identity: str | None


def read_embedding(source: str, *, for_head: bool) -> TokenEmbedding:
    """Read the token embedding of a trained model.

    Parameters
    ----------
    source
        The folder of a finished run or of a saved model, a ``.safetensors`` file, or a hub id (``gpt2``).

    for_head
        Whether the rows are going to be a head, too: then the output embedding is taken where there is one of its own.
        (A baseline of a few epochs has hardly moved its input rows, but all of its output rows: as a frozen head the
        former gave a perplexity of 1562, the latter of 459.)

    Returns
    -------
    TokenEmbedding
        The embedding. Of a hub model only ``model.safetensors`` and the tokenizer are fetched.

    Raises
    ------
    EmbeddingError
        Where nothing is there, a run is not finished, or the weights hold no input embedding.
    HubUnavailableError
        The hub did not answer.
    """
    local = local_embedding(source)
    if local is not None:
        identity = _identity_of_folder(local.parent) if Path(source).expanduser().is_dir() else None
        return TokenEmbedding(_read_weight(local, for_head), source, identity)
    file = ask_hub(lambda: hf_hub_download(source, WEIGHTS), f"{WEIGHTS} of {source}", OFFLINE_CHOICE)
    tokenizer = load_tokenizer(source, lambda: (), "")
    return TokenEmbedding(_read_weight(Path(file), for_head), source, tokenizer_identity(tokenizer))


def local_embedding(source: str, *, width: int | None = None) -> Path | None:
    """Return the file of weights on this machine that a source means; None for a hub id, which nobody is asked for.

    Parameters
    ----------
    source
        As for `read_embedding`.
    width
        Width E that its embedding must have, where that is to be checked.

    Raises
    ------
    EmbeddingError
        Where nothing is there, a run is not finished, or the width is another one.
    """
    path = Path(source).expanduser()
    if not path.exists():
        if source.startswith((".", "~", "/")) or source.count("/") > 1 or path.suffix == ".safetensors":
            raise EmbeddingError(f"embedding_source is {source!r}, but there is no such file or folder.")
        return None
    file = _model_folder(path) / WEIGHTS if path.is_dir() else path
    if path.is_dir():
        _identity_of_folder(file.parent)
    there = width if width is None else _read_weight(file, for_head=False).shape[1]
    if there != width:
        raise EmbeddingError(
            f"embedding_source is {source!r}, whose width is {there}, but the model's is {width}: build it with "
            f"hidden_size={there}."
        )
    return file


def adopt_embedding(model: LanguageModel, embedding: TokenEmbedding, tokenizer: PreTrainedTokenizerFast) -> None:
    """Give a model a trained token embedding; a model that always stands on another's notes where it came from.

    The model's vocabulary may be padded: rows beyond the embedding's become its mean row.

    Parameters
    ----------
    model
        The model; a head that is tied to the embedding follows it.
    embedding
        From `read_embedding`.
    tokenizer
        The tokenizer that the model is going to be used with.

    Raises
    ------
    EmbeddingError
        Where the shape is not the model's, or the rows are another tokenizer's ids.
    """
    weight = _embedding_of(model)
    if embedding.tokenizer_identity is None:
        logger.warning("%s does not say whose token ids its rows are: only their number is checked", embedding.source)
    elif embedding.tokenizer_identity != tokenizer_identity(tokenizer):
        raise EmbeddingError(
            f"the embedding of {embedding.source} belongs to another tokenizer, so its rows are other tokens: use that "
            "tokenizer for the data, or the embedding of a run on this data."
        )
    rows, width = embedding.weight.shape
    if width != weight.shape[1] or not len(tokenizer) <= rows <= weight.shape[0]:
        raise EmbeddingError(
            f"the embedding of {embedding.source} is {(rows, width)} (tokens, width), the model's is "
            f"{tuple(weight.shape)} and the tokenizer has {len(tokenizer)} tokens: build the model with "
            f"vocab_size={rows}, hidden_size={width}."
        )
    with torch.no_grad():
        weight[:rows] = embedding.weight.to(weight)
        # Ids that pad the vocabulary stand for no text: an average row never makes them likely.
        weight[rows:] = embedding.weight.mean(0).to(weight)
    if isinstance(model.config, BorrowedEmbeddingConfig):
        model.config.embedding_source = embedding.source
        model.config.embedding_digest = embedding_digest(model)


def embedding_digest(model: LanguageModel) -> str:
    """Digest (32 hex digits) of a model's token embedding, to tell whether it is the one that was adopted."""
    weight = _embedding_of(model).detach().cpu().float().contiguous()
    return digest(weight.numpy().tobytes())[:32]


def refuse_unknowing_embedding(model: LanguageModel) -> None:
    """Stop before training where the token embedding is frozen, is the head too, and was adopted from nowhere.

    Raises
    ------
    EmbeddingError
        Always then: such a model could only learn random numbers by heart.
    """
    adopted = model.config.embedding_digest if isinstance(model.config, BorrowedEmbeddingConfig) else None
    if _is_frozen_and_tied(model) and adopted != embedding_digest(model):
        refuse_random_head(model)


def refuse_random_head(model: LanguageModel) -> None:
    """Refuse a model of random weights whose token embedding is frozen, and the head too.

    Raises
    ------
    EmbeddingError
        Where it is.
    """
    if _is_frozen_and_tied(model):
        raise EmbeddingError(
            "a token embedding that is frozen and tied to the head must come from a trained model: give it one with "
            "embedding_source (gpt2, a file, or a finished run), train it (freeze_embedding: false), or untie it."
        )


def _is_frozen_and_tied(model: LanguageModel) -> bool:
    weight = _embedding_of(model)
    return not weight.requires_grad and model.get_output_embeddings().weight is weight


def _embedding_of(model: LanguageModel) -> Tensor:
    weight = model.get_input_embeddings().weight
    assert isinstance(weight, Tensor)
    return weight


def _model_folder(folder: Path) -> Path:
    """Folder of the saved model: of a run's folder, the one in it."""
    if (folder / RUN_FILE).is_file():
        try:
            damaged = damaged_model_file(folder)
        except FileNotFoundError as error:
            raise EmbeddingError(f"the run in {folder} is not finished: run it to its end first.") from error
        except DamagedFileError as error:
            raise EmbeddingError(f"{error}: run it again.") from error
        if damaged is not None:
            raise EmbeddingError(f"{damaged} is damaged or missing: run it again.")
        folder = folder / SAVED_MODEL
    if not (folder / WEIGHTS).is_file():
        raise EmbeddingError(f"{folder} holds no {WEIGHTS}: name the folder of a finished run or of a saved model.")
    return folder


def _identity_of_folder(folder: Path) -> str | None:
    if not (folder / "tokenizer.json").is_file():
        return None
    try:
        return tokenizer_identity(PreTrainedTokenizerFast.from_pretrained(folder))
    except Exception as error:  # the library raises whatever it stumbles over
        raise EmbeddingError(f"{folder / 'tokenizer.json'} cannot be read ({first_line(error)}).") from error


def _read_weight(file: Path, for_head: bool) -> Tensor:
    """Token embedding (V, E) of a safetensors file: the tensor with a known name, or the only matrix there is."""
    try:
        with safe_open(file, framework="pt") as stored:
            matrices = [name for name in stored.keys() if len(stored.get_slice(name).get_shape()) == 2]  # noqa: SIM118
            heads = [name for name in matrices if for_head and name.endswith(HEAD_NAMES)]
            inputs = [name for name in matrices if name.endswith(INPUT_NAMES)]
            chosen = heads or inputs or matrices
            if len(chosen) != 1:
                raise EmbeddingError(
                    f"{file} holds {len(inputs)} input embeddings ({', '.join(INPUT_NAMES)}) and {len(matrices)} "
                    "matrices: there must be one of either."
                )
            return stored.get_tensor(chosen[0]).float()
    except SafetensorError as error:
        raise EmbeddingError(f"{file} is not a safetensors file ({error}).") from error
