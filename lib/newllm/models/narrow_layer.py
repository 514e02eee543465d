"""A cache layer that keeps its entries in a narrower type: bfloat16, 8-bit floats, or integers with scales."""

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from transformers.cache_utils import DynamicLayer

# Entries that share a scale: the largest divisor of the width up to this, as KIVI (Liu et al. 2024) groups them.
LARGEST_GROUP = 64
# Largest number of 4 exponent and 3 fraction bits, without infinity.
FLOAT8_MAX = torch.finfo(torch.float8_e4m3fn).max
# Smallest positive number of float16, and its largest.
SMALLEST_HALF = torch.finfo(torch.float16).smallest_normal * torch.finfo(torch.float16).eps
LARGEST_HALF = torch.finfo(torch.float16).max


class Codec(ABC):
    """A way to keep entries (B, G, T, width) in few bits, each token by itself."""

    @abstractmethod
    def encode(self, entries: Tensor) -> list[Tensor]:
        """Return what is kept: tensors (B, G, T, ...)."""

    @abstractmethod
    def decode(self, kept: list[Tensor], width: int) -> Tensor:
        """Return entries (B, G, T, width) from what is kept, in float32 or what is kept of them."""


class Cast(Codec):
    """Entries in another floating-point type."""

    def __init__(self, dtype: torch.dtype) -> None:
        self.dtype = dtype

    def encode(self, entries: Tensor) -> list[Tensor]:
        """Cast."""
        return [entries.to(self.dtype, copy=True)]

    def decode(self, kept: list[Tensor], width: int) -> Tensor:
        """Return what was cast."""
        return kept[0]


class Float8(Codec):
    """Entries as 8-bit floats (e4m3), times one scale in bfloat16 a group that brings its largest to 448."""

    def encode(self, entries: Tensor) -> list[Tensor]:
        """Scale and cast."""
        grouped = _grouped(entries)
        scale = (grouped.abs().amax(-1, keepdim=True) / FLOAT8_MAX).bfloat16()
        scale = scale.clamp(min=torch.finfo(torch.bfloat16).tiny)
        codes = (grouped / scale.float()).clamp(-FLOAT8_MAX, FLOAT8_MAX).to(torch.float8_e4m3fn)
        return [codes.flatten(3), scale.squeeze(-1)]

    def decode(self, kept: list[Tensor], width: int) -> Tensor:
        """Cast and scale back."""
        codes, scale = kept
        return (codes.float().unflatten(3, (scale.shape[3], -1)) * scale.float()[..., None]).flatten(3)


class Integer(Codec):
    """Entries as integers from 0 on, times a scale, plus a zero point, both in float16 and one of each a group.

    Integers of 4 bits lie two in a byte. Entries beyond the range of float16 come back as its ends.
    """

    def __init__(self, bits: int) -> None:
        self.bits = bits
        self.largest = 2**bits - 1

    def encode(self, entries: Tensor) -> list[Tensor]:
        """Round to the nearest of the values that lie evenly between a group's smallest and its largest entry."""
        # A zero point of minus infinity would make every entry of its group NaN.
        grouped = _grouped(entries).clamp(-LARGEST_HALF, LARGEST_HALF)
        low, high = grouped.aminmax(dim=-1, keepdim=True)
        zero = low.half()
        scale = ((high - zero.float()) / self.largest).half().clamp(min=SMALLEST_HALF)
        codes = ((grouped - zero.float()) / scale.float()).round().clamp(0, self.largest).to(torch.uint8).flatten(3)
        if self.bits == 4:
            codes = F.pad(codes, (0, codes.shape[3] % 2))
            codes = codes[..., ::2] | codes[..., 1::2] << 4
        return [codes, scale.squeeze(-1), zero.squeeze(-1)]

    def decode(self, kept: list[Tensor], width: int) -> Tensor:
        """Scale back."""
        codes, scale, zero = kept
        if self.bits == 4:
            codes = torch.stack([codes & 15, codes >> 4], dim=-1).flatten(3)[..., :width]
        grouped = codes.float().unflatten(3, (scale.shape[3], -1))
        return (grouped * scale.float()[..., None] + zero.float()[..., None]).flatten(3)


def _grouped(entries: Tensor) -> Tensor:
    """(B, G, T, width) -> (B, G, T, groups, width of a group), in float32."""
    width = entries.shape[3]
    size = next(size for size in range(min(width, LARGEST_GROUP), 0, -1) if width % size == 0)
    return entries.float().unflatten(3, (-1, size))


CODECS: dict[str, Codec] = {
    "float32": Cast(torch.float32),
    "bfloat16": Cast(torch.bfloat16),
    "float8": Float8(),
    "int8": Integer(8),
    "int4": Integer(4),
}


class NarrowLayer(DynamicLayer):
    """Entries by token in a narrower type; every reader gets them as they come back from it, the newest ones included.

    Each token is encoded by itself, when it comes. So nothing is kept twice or in full, entries never change, and what
    is read here does not depend on how many tokens a call has. (What a model reads elsewhere may: a recurrence and key
    attention compute with exact values of the tokens of one call.)

    Parameters
    ----------
    precision
        One of `CODECS`.
    """

    def __init__(self, precision: str) -> None:
        self.precision = precision
        # What is kept of keys and of values, empty before the first token, and the width of each.
        self._kept: list[list[Tensor]] = []
        self._widths: list[int] = []
        super().__init__()

    @property
    def keys(self) -> Tensor | None:
        """Keys (B, G, S, d), decoded anew at each reading."""
        return self._decoded(0)

    @keys.setter
    def keys(self, entries: Tensor | None) -> None:
        _refuse_to_set(entries)

    @property
    def values(self) -> Tensor | None:
        """Values (B, G, S, d_v), decoded anew at each reading."""
        return self._decoded(1)

    @values.setter
    def values(self, entries: Tensor | None) -> None:
        _refuse_to_set(entries)

    def lazy_initialization(self, key_states: Tensor, value_states: Tensor) -> None:
        """Note the type that readers get."""
        self.dtype, self.device = key_states.dtype, key_states.device
        self.is_initialized = True

    def update(self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any) -> tuple[Tensor, Tensor]:
        """Add keys (B, G, T, d) and values (B, G, T, d_v) of new tokens; returns those of all tokens, as decoded."""
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
        self._widths = [key_states.shape[3], value_states.shape[3]]
        added = [
            self._codec(width).encode(entries)
            for entries, width in zip((key_states, value_states), self._widths, strict=True)
        ]
        if self._kept:
            self._kept = [
                [torch.cat(pair, dim=2) for pair in zip(old, new, strict=True)]
                for old, new in zip(self._kept, added, strict=True)
            ]
        else:
            self._kept = added
        keys, values = self.keys, self.values
        assert keys is not None and values is not None
        return keys, values

    def get_seq_length(self) -> int:
        """Return the number of tokens."""
        return self._kept[0][0].shape[2] if self._kept else 0

    def crop(self, tokens_to_remove: int) -> None:
        """Forget the last ``-tokens_to_remove`` tokens."""
        if tokens_to_remove > 0:
            raise ValueError(f"crop takes a negative number of tokens to remove, got {tokens_to_remove}")
        if tokens_to_remove:
            self._map(lambda tensor: tensor[:, :, :tokens_to_remove].clone())

    def reset(self) -> None:
        """Return to the state before the first token."""
        self._kept = []
        super().reset()

    def offload(self) -> None:
        """Refuse: what is kept here stays where it is."""
        raise NotImplementedError("a cache in a narrower type is not offloaded: take one or the other")

    def reorder_cache(self, beam_idx: Tensor) -> None:
        """Follow beam search: row i becomes row ``beam_idx[i]``."""
        self._map(lambda tensor: tensor.index_select(0, beam_idx.to(tensor.device)))

    def batch_repeat_interleave(self, repeats: int) -> None:
        """Repeat each row ``repeats`` times."""
        self._map(lambda tensor: tensor.repeat_interleave(repeats, dim=0))

    def batch_select_indices(self, indices: Tensor) -> None:
        """Keep the rows ``indices``."""
        self._map(lambda tensor: tensor[indices])

    def _map(self, change: Callable[[Tensor], Tensor]) -> None:
        self._kept = [[change(tensor) for tensor in kept] for kept in self._kept]

    def _codec(self, width: int) -> Codec:
        """Return what encodes entries of that width: where there are none, there is no scale."""
        return CODECS[self.precision if width else "float32"]

    def _decoded(self, which: int) -> Tensor | None:
        if not self._kept:
            return None
        width = self._widths[which]
        return self._codec(width).decode(self._kept[which], width).to(self.dtype)


def _refuse_to_set(entries: Tensor | None) -> None:
    if entries is not None:
        raise AttributeError("entries come into a layer of a narrower type by update alone")
