"""The checkpoint of a trained recurrence: everything that it was trained against."""

import hashlib
import json
from pathlib import Path
from typing import Any, cast

import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from newllm.files import to_json, write_atomically
from newllm.models.projection import DiverseProjection
from newllm.models.recurrent import RecurrentModel
from newllm.recurrence.training import ProjectionResult, write_tensors

WEIGHTS = "projection.safetensors"


DESCRIPTION = "projection.json"


class ProjectionMismatchError(ValueError):
    """A projection checkpoint that does not belong to the model or the tokenizer at hand."""


def save_projection(folder: Path, model: RecurrentModel, result: ProjectionResult, tokenizer_identity: str) -> None:
    """Write all that the model's recurrences were trained against, and themselves, to ``folder``.

    ``projection.safetensors`` holds embedding, ``embed_norm`` and recurrences; ``projection.json``, written last, holds
    config, tokenizer identity, history, and the digest of the first.

    Parameters
    ----------
    folder
        Made where it is missing; an earlier checkpoint in it is replaced.
    model
        The model whose recurrences were trained.
    result
        What came of it.
    tokenizer_identity
        Identity of the tokenizer of the training stream.
    """
    write_tensors(folder / WEIGHTS, _projection_tensors(model), {})
    description = {
        "config": _projection_config(model),
        "tokenizer_identity": tokenizer_identity,
        "converged": result.converged,
        "history": result.history,
        "weights_sha256": _digest_of(folder / WEIGHTS),
    }
    write_atomically(folder / DESCRIPTION, to_json(description))


@torch.no_grad()
def load_projection(
    folder: Path, model: RecurrentModel, tokenizer_identity: str, *, adopt_embedding: bool = False
) -> ProjectionResult:
    """Load trained recurrences and their ``embed_norm`` into a model, which then gives the same contexts.

    Parameters
    ----------
    folder
        Where :func:`save_projection` wrote.
    model
        A model of the same shapes, with the embedding that the recurrences were trained against.
    tokenizer_identity
        Identity of the tokenizer that the model is used with.
    adopt_embedding
        Take the checkpoint's embedding over into the model, instead of refusing a model with another one.

    Returns
    -------
    ProjectionResult
        What came of the training.

    Raises
    ------
    FileNotFoundError
        Where the folder holds no complete checkpoint.
    ProjectionMismatchError
        Where config, tokenizer or embedding differ, or the file was damaged; the message says which.
    """
    if not (folder / DESCRIPTION).is_file() or not (folder / WEIGHTS).is_file():
        raise FileNotFoundError(f"{folder} holds no complete projection checkpoint: run the projection training first")
    description = json.loads((folder / DESCRIPTION).read_text(encoding="utf-8"))
    for key, value in _projection_config(model).items():
        saved = description["config"].get(key)
        if saved != value:
            raise ProjectionMismatchError(f"{key} is {saved} in the checkpoint {folder}, but {value} in the model")
    if description["tokenizer_identity"] != tokenizer_identity:
        raise ProjectionMismatchError(
            f"the checkpoint {folder} was trained with tokenizer {description['tokenizer_identity']}, "
            f"but the model is used with {tokenizer_identity}"
        )
    if description["weights_sha256"] != _digest_of(folder / WEIGHTS):
        raise ProjectionMismatchError(f"{folder / WEIGHTS} does not belong to its {DESCRIPTION}, or is damaged")
    own, saved_tensors = _projection_tensors(model), load_file(folder / WEIGHTS)
    embedding = saved_tensors["embedding.weight"].to(own["embedding.weight"])
    if not adopt_embedding and not torch.equal(embedding, own["embedding.weight"]):
        raise ProjectionMismatchError(
            f"the model's embedding is not the one that the projection in {folder} was trained against: "
            "build the model with the same seed or weights, or adopt the checkpoint's embedding"
        )
    for name, tensor in saved_tensors.items():
        own[name].copy_(tensor)
    return ProjectionResult(description["history"], description["converged"])


def _projection_tensors(model: RecurrentModel) -> dict[str, Tensor]:
    """Embedding, its norm, and the recurrences of a model, by name; the tensors themselves, not copies."""
    embedding = cast(nn.Embedding, model.get_input_embeddings())
    tensors = {"embedding.weight": embedding.weight.detach()}
    for prefix, module in (("embed_norm", model.embed_norm), ("context_blocks", model.context_blocks)):
        tensors |= {f"{prefix}.{name}": value for name, value in module.state_dict().items()}
    return tensors


def _projection_config(model: RecurrentModel) -> dict[str, Any]:
    """Return what must agree for the same tokens to give the same contexts, tensors aside."""
    embedding = cast(nn.Embedding, model.get_input_embeddings())
    blocks = cast(list[DiverseProjection], list(model.context_blocks))
    return {
        "vocab_size": embedding.num_embeddings,
        "embed_dim": embedding.embedding_dim,
        "context_dims": [block.proj_dim for block in blocks],
        "embed_norm_eps": model.embed_norm.eps,
    }


def _digest_of(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
