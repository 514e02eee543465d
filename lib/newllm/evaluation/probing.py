"""What the causality and cache checks share: a private float64 copy, random tokens, a forward pass in pieces."""

import copy
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor
from transformers import PreTrainedModel
from transformers.cache_utils import Cache

from newllm.models.backbones import RMSNorm
from newllm.models.language_model import LanguageModel
from newllm.runtime import move

# Errors of float64 arithmetic stay far below this, real differences far above.
EXACT = 1e-9
PROBE_SEED = 20_240_229


def probe_copy(model: PreTrainedModel, dtype: torch.dtype = torch.float64) -> PreTrainedModel:
    """Copy a model for probing: another dtype, eval mode, no dropout, the original left as it is.

    The copy stays on the model's device where that is a CPU or a CUDA device, and goes to the CPU otherwise (other
    devices have no float64).
    """
    clone = copy.deepcopy(model)
    if clone.device.type not in ("cpu", "cuda"):
        clone = clone.cpu()
    move(clone, dtype)
    clone.eval()
    for part in clone.modules():
        if isinstance(part, torch.nn.Dropout):
            part.p = 0.0
    if dtype == torch.float64:
        _norm_in_float64(clone)
    return clone


def _norm_in_float64(model: PreTrainedModel) -> None:
    """Compute RMSNorms as exactly as all else: newllm's, and those that transformers' models write as Llama's is."""
    for parent in list(model.modules()):
        for name, norm in parent.named_children():
            if type(norm).__name__.endswith("RMSNorm") and hasattr(norm, "variance_epsilon"):
                weight = norm.get_parameter("weight")
                ours = RMSNorm(len(weight), cast(float, norm.variance_epsilon))
                ours.weight = weight
                parent.register_module(name, ours)
                norm = ours
            if isinstance(norm, RMSNorm):
                norm.computed_in = torch.float64


def probe_generator() -> torch.Generator:
    """Return the generator of the probes: the same draws each time, the global one untouched."""
    return torch.Generator().manual_seed(PROBE_SEED)


@contextmanager
def untouched_randomness(device: torch.device) -> Iterator[None]:
    """Give the global random generators back as they were, whatever the model draws in between."""
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        yield


def vocabulary_size(model: PreTrainedModel) -> int:
    """Return the number of tokens that the model can read."""
    embedding = model.get_input_embeddings()
    if not isinstance(embedding, torch.nn.Embedding):
        raise TypeError(f"the input embedding of {type(model).__name__} must be an nn.Embedding to be probed")
    return embedding.num_embeddings


def period_of(model: PreTrainedModel) -> int:
    """Return the tokens after which a model's way of remembering repeats; 1 for models of others."""
    return model.period if isinstance(model, LanguageModel) else 1


def random_tokens(model: PreTrainedModel, rows: int, length: int, generator: torch.Generator) -> Tensor:
    """Draw token ids (rows, length), uniformly, on the model's device."""
    return torch.randint(vocabulary_size(model), (rows, length), generator=generator).to(model.device)


def other_tokens(model: PreTrainedModel, tokens: Tensor, generator: torch.Generator) -> Tensor:
    """Draw ids of the same shape, each different from the one it replaces."""
    size = vocabulary_size(model)
    step = torch.randint(1, size, tuple(tokens.shape), generator=generator).to(tokens.device)
    return (tokens + step) % size


def refuse_no_count(**counts: Any) -> None:
    """Raise ValueError, in one sentence, for the first of these values that is no whole number of 1 or more."""
    for name, count in counts.items():
        if isinstance(count, bool) or not isinstance(count, int | np.integer) or count < 1:
            raise ValueError(f"{name}={count!r} must be a whole number, 1 or more")


def positions_of(attention_mask: Tensor) -> Tensor:
    """Positions (B, T) that do not count padding, as ``generate()`` derives them from a mask (B, T)."""
    return (attention_mask.long().cumsum(-1) - 1).clamp(min=0)


def cached_length(cache: Cache | None) -> int:
    """Return the tokens that a cache has seen."""
    return 0 if cache is None else cache.get_seq_length()


def pieces_of(length: int, size: int) -> list[int]:
    """Cut ``length`` tokens into pieces of ``size``, of which the last may be shorter; ValueError for sizes below 1."""
    if size < 1:
        raise ValueError(f"tokens a step must be 1 or more, got {size}")
    return [min(size, length - start) for start in range(0, length, size)]


def forward_in_pieces(
    model: PreTrainedModel,
    input_ids: Tensor,
    pieces: Sequence[int],
    attention_mask: Tensor | None = None,
    cache: Cache | None = None,
    *,
    last_logits_only: bool = False,
) -> Iterator[tuple[slice, Tensor, Cache]]:
    """Send tokens through the cache, some at a time.

    Parameters
    ----------
    model
        Any causal language model.
    input_ids
        New tokens (B, T).
    pieces
        How many tokens each call takes; they add up to T.
    attention_mask
        1 where a real token stands, cached tokens first (B, cached + T).
    cache
        The cache of the tokens before; the model makes a fresh one where it is None.
    last_logits_only
        Compute those of the last token of each piece alone.

    Yields
    ------
    tuple[slice, Tensor, Cache]
        Which of the T tokens this piece held, their logits (B, piece, V), and the cache after it.
    """
    if sum(pieces) != input_ids.shape[1]:
        raise ValueError(f"pieces {list(pieces)} must add up to the {input_ids.shape[1]} tokens given")
    past = cached_length(cache)
    start = 0
    for length in pieces:
        part = slice(start, start + length)
        arguments: dict[str, Any] = {"logits_to_keep": 1} if last_logits_only else {}
        if attention_mask is not None:
            seen = attention_mask[:, : past + start + length]
            arguments |= {"attention_mask": seen, "position_ids": positions_of(seen)[:, -length:]}
        output = model(input_ids[:, part], past_key_values=cache, use_cache=True, **arguments)
        cache = output.past_key_values
        if cache is None:
            raise ValueError(f"{type(model).__name__} returned no cache although use_cache=True was given")
        yield part, output.logits, cache
        start += length


def logits_in_pieces(
    model: PreTrainedModel,
    input_ids: Tensor,
    pieces: Sequence[int],
    attention_mask: Tensor | None = None,
    cache: Cache | None = None,
) -> tuple[Tensor, Cache]:
    """Return all logits (B, T, V) of `forward_in_pieces`, and the cache at the end."""
    steps = list(forward_in_pieces(model, input_ids, pieces, attention_mask, cache))
    return torch.cat([logits for _, logits, _ in steps], dim=1), steps[-1][2]
