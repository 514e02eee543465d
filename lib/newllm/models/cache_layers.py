"""Cache layers that transformers does not have, and what makes a caller's cache one of this model.

A per-token cache is the stock ``DynamicLayer``; a model's own cache has a `GrowingLayer` in its place, which keeps the
same without copying it at each step. A recurrence remembers one vector a sequence, whatever its length: that is
`RecurrentStateLayer`, which stands after the stock layers in the same cache. `ChunkContextLayer` keeps one more vector
a chunk. `prepare_cache` checks every cache before it is used.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from transformers.cache_utils import Cache, CacheLayerMixin, DynamicCache, DynamicLayer

from newllm.models.cache_entries import CHUNK_END, STATE, DescribedLayer, Entry
from newllm.models.growing_layer import GrowingLayer
from newllm.models.narrow_layer import CODECS, NarrowLayer


class RecurrentStateLayer(DescribedLayer):
    """The last context of a recurrence, (B, P), and how many tokens it has seen.

    It can be cropped only while past recording is on: one vector does not tell what it was before.
    """

    is_croppable = False

    def __init__(self) -> None:
        super().__init__()
        self.state: Tensor | None = None
        self.tokens_seen = 0
        self.record_past = False
        # Contexts since recording began, the state before them first: (B, 1 + T, P).
        self.history: Tensor | None = None

    def advance(self, contexts: Tensor) -> None:
        """Take the contexts (B, T, P) of T new tokens; the last one becomes the state."""
        if self.record_past:
            if self.history is None:
                start = self.state if self.state is not None else torch.zeros_like(contexts[:, 0])
                self.history = start[:, None]
            self.history = torch.cat([self.history, contexts.detach()], dim=1)
        # A copy, because a view would keep all T contexts alive.
        self.state = contexts[:, -1].clone()
        self.tokens_seen += contexts.shape[1]
        self.is_initialized = True

    def entries(self) -> list[Entry]:
        """Describe the state, which is the last token's."""
        return [] if self.state is None else [Entry(self.tokens_seen - 1, STATE, self.state.shape[1])]

    def activate_past_recording(self) -> None:
        """Keep every context from now on, so that `crop` is exact. Costs P values a token."""
        self.record_past = True

    def check_crop(self, tokens_to_remove: int) -> None:
        """Raise what `crop` would raise, and change nothing."""
        if tokens_to_remove > 0:
            raise ValueError(f"crop takes a negative number of tokens to remove, got {tokens_to_remove}")
        removed = -tokens_to_remove
        recorded = 0 if self.history is None else self.history.shape[1] - 1
        if removed > recorded:
            raise RuntimeError(
                f"a recurrent state cannot be cropped by {removed} tokens, {recorded} are recorded: make a new cache "
                "with model.new_cache() and call cache.activate_past_recording() before the tokens to be removed"
            )

    def crop(self, tokens_to_remove: int) -> None:
        """Forget the last ``-tokens_to_remove`` tokens.

        Raises
        ------
        RuntimeError
            Where those tokens were not recorded.
        """
        self.check_crop(tokens_to_remove)
        if tokens_to_remove == 0:
            return
        assert self.history is not None
        self.history = self.history[:, :tokens_to_remove]
        self.state = self.history[:, -1].clone()
        self.tokens_seen += tokens_to_remove

    def get_seq_length(self) -> int:
        """Return the number of tokens seen, padding included."""
        return self.tokens_seen

    def get_max_length(self) -> int:
        """Return -1: a state has no maximal length."""
        return -1

    def get_mask_sizes(self, query_length: int) -> tuple[int, int]:
        """Return (tokens seen and new ones, 0), as a full-length layer would."""
        return self.tokens_seen + query_length, 0

    def lazy_initialization(self, key_states: Tensor, value_states: Tensor) -> None:
        """Do nothing: the first `advance` sets the state."""

    def update(self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any) -> tuple[Tensor, Tensor]:
        """Refuse: a state has neither keys nor values."""
        raise NotImplementedError("a recurrent state takes contexts, through advance()")

    def offload(self) -> None:
        """Do nothing: a state is too small to be worth moving."""

    def prefetch(self) -> None:
        """Do nothing: a state is never offloaded."""

    def reset(self) -> None:
        """Return to the state before the first token."""
        self.state = self.history = None
        self.tokens_seen = 0
        self.is_initialized = False

    def _map_rows(self, change: Callable[[Tensor], Tensor]) -> None:
        self.state = None if self.state is None else change(self.state)
        self.history = None if self.history is None else change(self.history)

    def reorder_cache(self, beam_idx: Tensor) -> None:
        """Follow beam search: row i becomes row ``beam_idx[i]``."""
        self._map_rows(lambda rows: rows.index_select(0, beam_idx.to(rows.device)))

    def batch_repeat_interleave(self, repeats: int) -> None:
        """Repeat each row ``repeats`` times."""
        self._map_rows(lambda rows: rows.repeat_interleave(repeats, dim=0))

    def batch_select_indices(self, indices: Tensor) -> None:
        """Keep the rows ``indices``."""
        self._map_rows(lambda rows: rows[indices])


class ChunkContextLayer(RecurrentStateLayer):
    """The last context, and those at the ends of completed chunks. Chunks count a row's real tokens, not its padding.

    A row with fewer chunks than others has slots at its end that mean nothing yet.
    """

    def __init__(self) -> None:
        super().__init__()
        # Contexts at chunk ends (B, N, W).
        self._chunk_ends: Tensor | None = None
        # Real tokens seen (B,).
        self.real_tokens: Tensor | None = None
        # The same before recording began, and after each token since (B, 1 + T); chunk size, for crop.
        self.count_history: Tensor | None = None
        self.chunk_size = 0

    @property
    def chunk_ends(self) -> Tensor:
        """Contexts at the ends of the chunks so far (B, N, W); N may be 0."""
        if self._chunk_ends is None:
            assert self.state is not None, "no token was seen"
            return self.state.new_zeros(self.state.shape[0], 0, self.state.shape[1])
        return self._chunk_ends

    def advance_by_chunks(self, contexts: Tensor, token_mask: Tensor | None, chunk_size: int) -> Tensor:
        """Take the contexts of new tokens; the last one becomes the state, those at chunk ends are kept.

        Parameters
        ----------
        contexts
            Context after each new token (B, T, W).
        token_mask
            True where a real token stands (B, T); None where all are.
        chunk_size
            Tokens a chunk.

        Returns
        -------
        Tensor
            Real tokens up to each new token, itself included (B, T).
        """
        batch, length, width = contexts.shape
        if self.real_tokens is None:
            self.real_tokens = torch.zeros(batch, dtype=torch.long, device=contexts.device)
        before = self.real_tokens[:, None]
        is_real = contexts.new_ones(batch, length, dtype=torch.long) if token_mask is None else token_mask.long()
        counts = before + is_real.cumsum(1)
        after = counts[:, -1:]
        if token_mask is None:
            # Rows without padding count alike, so integers know what the tensors would say: nothing waits for these.
            chunks = (self.tokens_seen + length) // chunk_size
            completes = chunks > self.tokens_seen // chunk_size
        elif torch.compiler.is_compiling():
            # A graph's shapes cannot follow the mask: there is room for the chunks that there would be without padding.
            chunks = (self.tokens_seen + length) // chunk_size
            completes = chunks > 0
        else:
            chunks = int(after.max()) // chunk_size
            completes = bool((after // chunk_size > before // chunk_size).any())
        if completes:
            ends = torch.arange(1, chunks + 1, device=contexts.device) * chunk_size
            # The first token at which a row's count reaches the end of the chunk.
            reached = torch.searchsorted(counts, ends.repeat(batch, 1)).clamp(max=length - 1)
            found = contexts.gather(1, reached[..., None].expand(-1, -1, width))
            is_new = (ends > before) & (ends <= after)
            held = self.chunk_ends if self.is_initialized else contexts.new_zeros(batch, 0, width)
            held = F.pad(held, (0, 0, 0, chunks - held.shape[1]))
            self._chunk_ends = torch.where(is_new[..., None], found, held)
        if self.record_past:
            self.count_history = torch.cat([before if self.count_history is None else self.count_history, counts], 1)
        self.real_tokens = after[:, 0].clone()
        self.chunk_size = chunk_size
        self.advance(contexts)
        return counts

    def entries(self) -> list[Entry]:
        """Describe the state, and the contexts kept at the ends of chunks."""
        if self.state is None:
            return []
        count, width = self.chunk_ends.shape[1:]
        ends = [Entry((chunk + 1) * self.chunk_size - 1, CHUNK_END, width) for chunk in range(count)]
        return [*super().entries(), *ends]

    def crop(self, tokens_to_remove: int) -> None:
        """Forget the last ``-tokens_to_remove`` tokens; RuntimeError where they were not recorded."""
        super().crop(tokens_to_remove)
        if tokens_to_remove == 0:
            return
        assert self.count_history is not None
        self.count_history = self.count_history[:, :tokens_to_remove]
        self.real_tokens = self.count_history[:, -1].clone()
        # What is left beyond a row's own chunks is not seen, and overwritten when it completes them again.
        self._chunk_ends = self.chunk_ends[:, : int(self.real_tokens.max()) // self.chunk_size].clone()

    def reset(self) -> None:
        """Return to the state before the first token."""
        super().reset()
        self._chunk_ends = self.real_tokens = self.count_history = None

    def _map_rows(self, change: Callable[[Tensor], Tensor]) -> None:
        super()._map_rows(change)
        self._chunk_ends = None if self._chunk_ends is None else change(self._chunk_ends)
        self.real_tokens = None if self.real_tokens is None else change(self.real_tokens)
        self.count_history = None if self.count_history is None else change(self.count_history)


@dataclass
class CacheContents:
    """What is to be known of the tokens in a cache, beside what its layers know.

    Attributes
    ----------
    signature
        `LanguageModel.cache_signature` of the model whose tokens they are.
    first_positions
        Position of each row's first real token (B,); empty before the first token.
    is_shifted
        Whether any of them is not 0.
    positions
        Position of each token (B, S or more), where they leave gaps; None where they go up by one.
    mask
        True where a real token stands (B, S or more); None where no token is padding.
    """

    signature: str
    first_positions: Tensor = field(default_factory=lambda: torch.zeros(0, dtype=torch.long))
    is_shifted: bool = False
    positions: Tensor | None = None
    mask: Tensor | None = None

    @property
    def rows(self) -> int:
        """Number of rows B."""
        return len(self.first_positions)

    def map_rows(self, change: Callable[[Tensor], Tensor]) -> None:
        """Move the rows as those of the layers move."""
        self.first_positions = change(self.first_positions)
        self.positions = None if self.positions is None else change(self.positions)
        self.mask = None if self.mask is None else change(self.mask)


class AtomicCache(DynamicCache):
    """A ``DynamicCache`` whose ``crop`` changes all layers or none, and that knows whose tokens it holds."""

    contents: CacheContents | None = None

    def crop(self, tokens_to_remove: int) -> None:
        """Forget the last ``-tokens_to_remove`` tokens; what one layer refuses, none has done."""
        for layer in self.layers:
            # Stock layers forget any number of tokens, so they have nothing to check.
            if hasattr(layer, "check_crop"):
                layer.check_crop(tokens_to_remove)
        super().crop(tokens_to_remove)

    def reorder_cache(self, beam_idx: Tensor) -> None:
        """Follow beam search: row i becomes row ``beam_idx[i]``."""
        super().reorder_cache(beam_idx)  # type: ignore[arg-type]
        self._map_contents(lambda rows: rows.index_select(0, beam_idx.to(rows.device)))

    def batch_repeat_interleave(self, repeats: int) -> None:
        """Repeat each row ``repeats`` times."""
        super().batch_repeat_interleave(repeats)
        self._map_contents(lambda rows: rows.repeat_interleave(repeats, dim=0))

    def batch_select_indices(self, indices: Tensor) -> None:
        """Keep the rows ``indices``."""
        super().batch_select_indices(indices)
        self._map_contents(lambda rows: rows[indices])

    def _map_contents(self, change: Callable[[Tensor], Tensor]) -> None:
        if self.contents is not None and self.contents.rows:
            self.contents.map_rows(change)


def own_layers(layout: Sequence[type[CacheLayerMixin]], precision: str | None = None) -> list[CacheLayerMixin]:
    """Make the layers of a model's own cache.

    Parameters
    ----------
    layout
        The class of each layer the model uses, in order.
    precision
        What entries by token are kept in, one of `newllm.models.narrow_layer.CODECS`; None keeps them as they are, in
        layers that grow by blocks. A recurrence's state, one vector a sequence, is always kept as it is.

    Raises
    ------
    ValueError
        For an unknown precision, and for a model that has no entries by token, or keeps others beside them.
    """
    if precision is None:
        return [GrowingLayer() if wanted is DynamicLayer else wanted() for wanted in layout]
    if precision not in CODECS:
        raise ValueError(f"precision={precision!r} is unknown: choose one of {', '.join(CODECS)}")
    others = [wanted.__name__ for wanted in layout if wanted not in (DynamicLayer, RecurrentStateLayer)]
    if others or DynamicLayer not in layout:
        kept = others[0] if others else RecurrentStateLayer.__name__
        raise ValueError(
            f"a cache in {precision} holds entries by token alone, but this model keeps a {kept}: leave precision out"
        )
    return [NarrowLayer(precision) if wanted is DynamicLayer else wanted() for wanted in layout]


def prepare_cache(
    cache: Cache, layout: Sequence[type[CacheLayerMixin]], signature: str, *, serves_other_layers: bool
) -> None:
    """Check that a caller's cache is this model's, and give a fresh one the layers that it lacks, in place.

    Parameters
    ----------
    cache
        A cache of transformers, still empty or filled by the same model.
    layout
        The class of each layer the model uses, in order.
    signature
        Whose tokens it may hold.
    serves_other_layers
        Whether a growing layer of another class than the stock one, such as a quantised one, is used as it is.

    Raises
    ------
    ValueError
        Where the cache is of another kind, holds another model's tokens, or layers of unequal length.
    """
    if not isinstance(cache, Cache) or not hasattr(cache, "layers"):
        raise ValueError(
            f"past_key_values is a {type(cache).__name__}, not a cache of a decoder: pass model.new_cache() or an "
            "empty DynamicCache()"
        )
    contents: CacheContents | None = getattr(cache, "contents", None)
    # Compared one by one, because a set of them would have torch.compile make a graph for each length.
    lengths = [_length(layer) for layer in cache.layers]
    is_empty = not any(length > 0 for length in lengths)
    if contents is None or contents.signature != signature or len(cache.layers) != len(layout) or is_empty:
        if not is_empty:
            raise ValueError(
                "the cache holds tokens of another model, or of one with other settings: pass model.new_cache()"
            )
        _fill_layers(cache, layout, serves_other_layers)
        cache.contents = CacheContents(signature)  # type: ignore[attr-defined]
    elif any(length != lengths[0] for length in lengths):
        raise ValueError(
            f"the layers of the cache hold unequal numbers of tokens, {sorted(set(lengths))}: pass model.new_cache()"
        )


def _length(layer: Any) -> int:
    """Tokens in a layer; a layer that does not count any has none of a decoder's."""
    return int(layer.get_seq_length()) if isinstance(layer, CacheLayerMixin) else 0


def _fill_layers(cache: Cache, layout: Sequence[type[CacheLayerMixin]], serves_other_layers: bool) -> None:
    """Put the layers of ``layout`` into an empty cache; what a caller chose is kept, or refused, but never replaced."""
    if getattr(cache, "offloading", False) and not serves_other_layers:
        raise ValueError("this model cannot offload its cache: pass model.new_cache() or an empty DynamicCache()")
    for index, layer in enumerate(cache.layers):
        wanted = layout[index] if index < len(layout) else None
        # Layers beyond those that are used go, as where generate() makes one a block and blocks share them.
        serves = wanted in (DynamicLayer, None) and (
            type(layer) in (GrowingLayer, NarrowLayer) or (serves_other_layers and _is_growing(layer))
        )
        if type(layer) is not wanted and not serves and not _is_unused_stock_layer(layer):
            raise ValueError(
                f"cache layer {index} is a {type(layer).__name__}, "
                + (f"this model needs a {wanted.__name__}" if wanted else f"this model has {len(layout)}")
                + ": pass model.new_cache() or an empty DynamicCache()"
            )
    kept = cache.layers[: len(layout)]
    cache.layers[:] = [
        wanted() if index >= len(kept) or _is_unused_stock_layer(kept[index]) else kept[index]
        for index, wanted in enumerate(layout)
    ]
    if type(cache) is DynamicCache:
        # The object is the caller's (generate() makes one before it knows the model), so it cannot be exchanged.
        cache.__class__ = AtomicCache


def _is_growing(layer: Any) -> bool:
    """Whether a layer keeps all that it was given, in some way of its own."""
    return isinstance(layer, DynamicLayer) and not layer.is_sliding and layer.get_max_length() == -1


def _is_unused_stock_layer(layer: Any) -> bool:
    """Whether a layer is one that generate() makes before it knows the model, with no token in it."""
    return type(layer) is DynamicLayer and not layer.is_initialized
