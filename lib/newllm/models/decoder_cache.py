"""A decoder's cache: what it holds beside its layers, and what makes a caller's cache one of this model.

A per-token cache is the stock ``DynamicLayer``; a model's own cache has a `GrowingLayer` in its place, which keeps the
same without copying it at each step. `prepare_cache` checks every cache before it is used.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from transformers.cache_utils import Cache, CacheLayerMixin, DynamicCache, DynamicLayer

from newllm.models.cache_layers import RecurrentStateLayer
from newllm.models.growing_layer import GrowingLayer
from newllm.models.narrow_layer import CODECS, NarrowLayer


@dataclass
class CacheContents:
    """What is to be known of the tokens in a cache, beside what its layers know.

    Attributes
    ----------
    signature
        `LanguageModel.cache_signature` of the model whose tokens they are.
    dtype
        What that model computed in.
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
    dtype: torch.dtype
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
    cache: Cache,
    layout: Sequence[type[CacheLayerMixin]],
    signature: str,
    dtype: torch.dtype,
    *,
    serves_other_layers: bool,
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
    dtype
        What the model computes in.
    serves_other_layers
        Whether a growing layer of another class than the stock one, such as a quantised one, is used as it is.

    Raises
    ------
    ValueError
        Where the cache is of another kind, holds another model's tokens or those of another dtype, or layers of unequal
        length.
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
        cache.contents = CacheContents(signature, dtype)  # type: ignore[attr-defined]
    elif contents.dtype != dtype:
        raise ValueError(
            f"the cache was filled in {contents.dtype}, but the model now computes in {dtype}: pass model.new_cache()"
        )
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
