"""The checkpoint of a trained recurrence: everything that it was trained against."""

from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor, nn

from newllm.files import PROJECTION_DESCRIPTION, different_keys, read_json, write_json
from newllm.models.projection import DiverseProjection
from newllm.models.recurrent import RecurrentModel
from newllm.recurrence.training import ProjectionResult
from newllm.tensor_files import digest_of_tensors, read_tensors, write_tensors

WEIGHTS = "projection.safetensors"


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
    tensors = _projection_tensors(model)
    write_tensors(folder / WEIGHTS, tensors)
    description = {
        "config": _projection_config(model),
        "tokenizer_identity": tokenizer_identity,
        "converged": result.converged,
        "history": result.history,
        "weights": digest_of_tensors(tensors),
    }
    write_json(folder / PROJECTION_DESCRIPTION, description)


@torch.no_grad()
def load_projection(folder: Path, model: RecurrentModel, tokenizer_identity: str) -> ProjectionResult:
    """Load trained recurrences and their ``embed_norm`` into a model, which then gives the same contexts.

    Parameters
    ----------
    folder
        Where `save_projection` wrote.
    model
        A model of the same shapes, with the embedding that the recurrences were trained against.
    tokenizer_identity
        Identity of the tokenizer that the model is used with.

    Returns
    -------
    ProjectionResult
        What came of the training.

    Raises
    ------
    FileNotFoundError
        Where the folder holds no complete checkpoint.
    DamagedFileError
        Where a file does not hold what was written to it.
    ProjectionMismatchError
        Where config, tokenizer or embedding differ; the message says which.
    """
    description = read_fitting_description(folder, model, tokenizer_identity)
    saved_tensors, _ = read_tensors(folder / WEIGHTS, description["weights"])
    own = _projection_tensors(model)
    if not torch.equal(saved_tensors["embedding.weight"].to(own["embedding.weight"]), own["embedding.weight"]):
        raise ProjectionMismatchError(
            f"the model's embedding is not the one that the projection in {folder} was trained against: build the "
            "model with the same seed, weights or embedding_source"
        )
    for name, tensor in saved_tensors.items():
        own[name].copy_(tensor)
    return ProjectionResult(description["history"], description["converged"])


def read_fitting_description(folder: Path, model: RecurrentModel, tokenizer_identity: str) -> dict[str, Any]:
    """Read what a checkpoint says of itself, once it is seen that its shapes and its tokenizer are the model's.

    Parameters
    ----------
    folder, model, tokenizer_identity
        As for `load_projection`; the model's embedding may be another one.

    Raises
    ------
    FileNotFoundError, ProjectionMismatchError
        As `load_projection` does.
    """
    if not (folder / PROJECTION_DESCRIPTION).is_file() or not (folder / WEIGHTS).is_file():
        raise FileNotFoundError(f"{folder} holds no complete projection checkpoint: run the projection training first")
    description: dict[str, Any] = read_json(folder / PROJECTION_DESCRIPTION)
    saved_config, config = description["config"], _projection_config(model)
    if different := different_keys(saved_config, config):
        key = different[0]
        raise ProjectionMismatchError(
            f"{key} is {saved_config.get(key)} in the checkpoint {folder}, but {config.get(key)} in the model"
        )
    if description["tokenizer_identity"] != tokenizer_identity:
        raise ProjectionMismatchError(
            f"the checkpoint {folder} was trained with tokenizer {description['tokenizer_identity']}, "
            f"but the model is used with {tokenizer_identity}"
        )
    return description


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
