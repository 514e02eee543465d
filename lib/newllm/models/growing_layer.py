"""A cache layer whose storage grows by blocks, so that a decode step writes its own entries and copies no others."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from transformers.cache_utils import DynamicLayer

# Tokens by which storage grows. All entries are copied once a block, which adds 1/256 to the reading of them.
BLOCK_TOKENS = 256


class GrowingLayer(DynamicLayer):
    """What the stock ``DynamicLayer`` keeps, at the front of longer tensors that hold room for the tokens to come.

    The stock layer copies all of its entries to add one. Here ``keys`` and ``values`` are views of storage that a step
    writes behind them; where none is left, storage longer by a block takes its place. Entries that were ever handed out
    are not written again: after ``crop``, or where anything else put other tensors into the place of ``keys`` and
    ``values``, the next update copies them into fresh storage. While gradients are recorded it does what the stock
    layer does, because what a backward pass needs must not be written over.
    """

    def __init__(self) -> None:
        super().__init__()
        # Storage of keys and values, and the views of its front that it made: only behind these is it free.
        self._storage: list[Tensor] = []
        self._made_in_inference = False
        self._views: tuple[Tensor, Tensor] | None = None

    @property
    def spare_bytes(self) -> int:
        """Bytes of storage that hold no entry yet."""
        spare = 0
        for storage, held in zip(self._storage, (self.keys, self.values), strict=False):
            assert held is not None
            is_front = held.untyped_storage().data_ptr() == storage.untyped_storage().data_ptr()
            spare += storage.nbytes - (held.nbytes if is_front else 0)
        return spare

    def update(self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any) -> tuple[Tensor, Tensor]:
        """Add the keys (B, G, T, d) and values (B, G, T, d_v) of new tokens; returns those of all tokens."""
        added = (key_states, value_states)
        if torch.is_grad_enabled() or not self._takes(added):
            self._release()
            return super().update(key_states, value_states, *args, **kwargs)
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
        past = self.get_seq_length()
        total = past + key_states.shape[-2]
        if not self._has_room(total):
            self._move(added, past, total)
        for storage, new in zip(self._storage, added, strict=True):
            storage[:, :, past:total] = new
        return self._show(total)

    def crop(self, tokens_to_remove: int) -> None:
        """Forget the last ``-tokens_to_remove`` tokens."""
        super().crop(tokens_to_remove)
        if tokens_to_remove:
            self._views = None

    def reorder_cache(self, beam_idx: Tensor) -> None:
        """Follow beam search: row i becomes row ``beam_idx[i]``, in storage with room for the next token."""
        total = self.get_seq_length()
        held = (self.keys, self.values)
        if torch.is_grad_enabled() or total == 0:
            self._release()
            super().reorder_cache(beam_idx)  # type: ignore[arg-type]
            return
        rows = beam_idx.to(self.device)
        self._reserve(total, [tensor for tensor in held if tensor is not None], len(rows))
        for storage, tensor in zip(self._storage, held, strict=True):
            assert tensor is not None
            torch.index_select(tensor, 0, rows, out=storage[:, :, :total])
        self._show(total)

    def reset(self) -> None:
        """Return to the state before the first token."""
        self._release()
        super().reset()

    def __copy__(self) -> "GrowingLayer":
        """Copy the layer without its tensors; neither of the two writes behind what both hold."""
        self._views = None
        other = type(self)()
        vars(other).update(vars(self), _storage=list(self._storage))
        return other

    def _takes(self, added: tuple[Tensor, Tensor]) -> bool:
        """Whether new entries are of the shape, dtype and place of those held; what else they are, cat decides."""
        if self.get_seq_length() == 0:
            return True
        assert self.keys is not None and self.values is not None
        return all(map(_is_alike, added, (self.keys, self.values)))

    def _has_room(self, total: int) -> bool:
        """Whether the storage is free behind the entries, for ``total`` tokens in all."""
        if self._views is None or self.keys is not self._views[0] or self.values is not self._views[1]:
            return False
        # What was made in inference mode must not be written outside it.
        writable = not self._made_in_inference or torch.is_inference_mode_enabled()
        return writable and total <= self._storage[0].shape[2]

    def _move(self, added: tuple[Tensor, Tensor], past: int, total: int) -> None:
        """Copy the ``past`` entries into fresh storage for ``total`` tokens and more."""
        held = (self.keys, self.values)
        self._reserve(total, added, added[0].shape[0])
        for storage, tensor in zip(self._storage, held, strict=True):
            if past and tensor is not None:
                storage[:, :, :past] = tensor

    def _reserve(self, total: int, like: Sequence[Tensor], rows: int) -> None:
        """Take fresh storage for ``total`` tokens and more."""
        self._storage = [_room_for(total, tensor, rows) for tensor in like]
        # Asked here, once a block, and not at every token: torch.compile cannot trace the question.
        self._made_in_inference = self._storage[0].is_inference()

    def _show(self, total: int) -> tuple[Tensor, Tensor]:
        """Make the first ``total`` entries of the storage the layer's keys and values."""
        keys, values = (storage[:, :, :total] for storage in self._storage)
        self.keys, self.values, self._views = keys, values, (keys, values)
        return self._views

    def _release(self) -> None:
        """Hold no storage beside keys and values."""
        self._storage, self._views = [], None


def _is_alike(new: Tensor, old: Tensor) -> bool:
    """Whether entries (B, G, T, width) differ in nothing but their number T and their values."""
    same_kind = new.dtype == old.dtype and new.device == old.device
    return same_kind and new.shape[:2] == old.shape[:2] and new.shape[3] == old.shape[3]


def _room_for(tokens: int, like: Tensor, rows: int) -> Tensor:
    """Storage (rows, G, more than ``tokens``, width) of a whole number of blocks, for entries such as ``like``."""
    length = (tokens // BLOCK_TOKENS + 1) * BLOCK_TOKENS
    return like.new_empty(rows, like.shape[1], length, like.shape[3])
