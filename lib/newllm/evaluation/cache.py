"""What a cache costs, measured on its tensors."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor
from transformers import PreTrainedModel
from transformers.cache_utils import Cache, StaticLayer

from newllm.evaluation.probing import (
    forward_in_pieces,
    period_of,
    pieces_of,
    probe_copy,
    probe_generator,
    random_tokens,
    refuse_no_count,
    untouched_randomness,
)
from newllm.models.growing_layer import GrowingLayer
from newllm.models.language_model import STORED_TYPES, LanguageModel

PREFILL_PIECE = 512
# Tokens over which growth is measured, at least; rounded up to whole periods.
LEAST_GROWTH = 8


@dataclass(frozen=True)
class CacheReport:
    """Bytes that one sequence keeps.

    Attributes
    ----------
    measured_bytes
        Memory that the cache's tensors hold alive: each storage once and whole, so that a view of one row of a long
        tensor counts as the long tensor. Counters (integers, one a sequence at most), the history that
        ``activate_past_recording`` keeps for ``crop``, and room for tokens to come are not in it.
    reserved_bytes
        The same with the room that layers hold ready for tokens to come, at most a block for each.
    formula_bytes
        ``model.cached_values(tokens)`` times the bytes of a value; None for models without a formula.
    tokens
        Tokens in the cache.
    dtype
        Name of the dtype, such as "float32".
    bytes_per_token
        Growth between two lengths, each a whole number of periods, over the tokens between them.
    state_bytes
        What is there whatever the length.
    """

    measured_bytes: int
    reserved_bytes: int
    formula_bytes: int | None
    tokens: int
    dtype: str
    bytes_per_token: float
    state_bytes: float

    @property
    def agrees(self) -> bool:
        """Whether formula and measurement are the same number; True where there is no formula."""
        return self.formula_bytes is None or self.formula_bytes == self.measured_bytes


def measure(model: PreTrainedModel, tokens: int, dtype: torch.dtype = torch.float32) -> CacheReport:
    """Fill a real cache and count its bytes.

    Parameters
    ----------
    model
        Any causal language model of transformers' kind; a copy cast to ``dtype`` runs.
    tokens
        Length of the sequence.
    dtype
        Type of weights and cache, of those that models compute in: ``torch.float64``, ``float32``, ``float16`` or
        ``bfloat16``.

    Returns
    -------
    CacheReport
        Measured bytes beside the model's formula.

    Raises
    ------
    ValueError
        Where ``tokens`` is no positive number, or ``dtype`` none of the types that models compute in.
    """
    refuse_no_count(tokens=tokens)
    computed_in = tuple(STORED_TYPES.values())
    if dtype not in computed_in:
        raise ValueError(f"dtype={dtype!r} must be a type that models compute in: {', '.join(map(str, computed_in))}")
    probed = probe_copy(model, dtype)
    period = period_of(probed)
    step = period * -(-LEAST_GROWTH // period)
    with untouched_randomness(probed.device):
        cache = prefilled(probed, tokens)
        slope, state = growth(lambda length: prefilled(probed, length), step)
    formula = probed.cached_values(tokens) * dtype.itemsize if isinstance(probed, LanguageModel) else None
    return CacheReport(
        measured_bytes=held_bytes(cache),
        reserved_bytes=reserved_bytes(cache),
        formula_bytes=formula,
        tokens=tokens,
        dtype=str(dtype).removeprefix("torch."),
        bytes_per_token=slope,
        state_bytes=state,
    )


def growth(filled: Callable[[int], Cache], step: int) -> tuple[float, float]:
    """Bytes that one token adds to a cache, and bytes that are there whatever the length.

    Parameters
    ----------
    filled
        Gives a cache of so many tokens.
    step
        Tokens of the shorter of two caches, half of those of the longer one: whole periods of the model's memory.
    """
    short, long = (held_bytes(filled(length)) for length in (step, 2 * step))
    slope = (long - short) / step
    return slope, short - slope * step


@torch.no_grad()
def prefilled(model: PreTrainedModel, tokens: int, cache: Cache | None = None) -> Cache:
    """Return a cache that has seen so many random tokens: the one given, or the model's own."""
    ids = random_tokens(model, 1, tokens, probe_generator())
    pieces = pieces_of(tokens, PREFILL_PIECE)
    return [cache for *_, cache in forward_in_pieces(model, ids, pieces, cache=cache, last_logits_only=True)][-1]


def held_bytes(cache: Cache) -> int:
    """Bytes that a cache keeps: `reserved_bytes` without what layers hold ready for tokens to come."""
    return reserved_bytes(cache) - sum(map(_spare_bytes, cache.layers))


def _spare_bytes(layer: object) -> int:
    """Bytes of a layer's storage that are there for tokens to come."""
    if isinstance(layer, GrowingLayer):
        return layer.spare_bytes
    if type(layer) is not StaticLayer or layer.keys is None or layer.values is None:
        return 0
    free = layer.max_cache_len - int(layer.get_seq_length())
    return sum(tensor.nbytes // layer.max_cache_len * free for tensor in (layer.keys, layer.values))


def reserved_bytes(cache: Cache) -> int:
    """Bytes of every storage that a cache keeps alive, each counted once and whole."""
    storages = {}
    for tensor in _tensors_below(cache):
        is_counter = tensor.ndim <= 1 and not tensor.dtype.is_floating_point
        if not is_counter:
            storage = tensor.untyped_storage()
            storages[(tensor.device, storage.data_ptr())] = storage.nbytes()
    return sum(storages.values())


def _tensors_below(root: object) -> list[Tensor]:
    """Every tensor that an object holds, in its attributes, its containers and the objects in those."""
    tensors: list[Tensor] = []
    waiting, seen = [root], set()
    while waiting:
        value = waiting.pop()
        if id(value) in seen:
            continue
        seen.add(id(value))
        if isinstance(value, Tensor):
            tensors.append(value)
        elif isinstance(value, dict):
            waiting += value.values()
        elif isinstance(value, list | tuple):
            waiting += value
        elif hasattr(value, "__dict__") and not isinstance(value, type | torch.nn.Module):
            waiting += vars(value).values()
    return tensors
