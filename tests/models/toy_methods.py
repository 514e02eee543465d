"""Two methods as a user would add them: one on stock cache layers, one with a cache layer and a period of its own."""

from collections.abc import Callable
from typing import Any

import torch
from huggingface_hub.dataclasses import strict
from torch import Tensor
from transformers.cache_utils import CacheLayerMixin

from newllm.models.attention import MultiHeadAttention, attend
from newllm.models.cache_entries import KEYS, VALUES, DescribedLayer, Entry
from newllm.models.config import DecoderConfig
from newllm.models.decoder import Decoder
from newllm.models.step import Step

SEGMENT = 16
# The one place in a segment from which the leaking method looks ahead: beyond a probe of twelve tokens.
LEAKING_PLACE = 13


@strict
class SharedVectorConfig(DecoderConfig):
    """Pythia's shape."""

    model_type = "newllm-toy-shared-vector"


class SharedVectorAttention(MultiHeadAttention):
    """Keys are values too, so that one vector a token is enough."""

    @property
    def cached_values_per_token(self) -> int:
        return self.num_groups * self.head_dim

    def forward(self, hidden: Tensor, step: Step) -> Tensor:
        queries, keys, _ = self.project(hidden, step)
        if step.cache is not None:
            keys, _ = step.cache.update(keys, keys[..., :0], self.layer_index)
        output = attend(queries, keys, keys, step, self.position, self.head_dim**-0.5)
        return self.dense(output.transpose(1, 2).flatten(2))


class SharedVectorModel(Decoder):
    """Stock cache layers, and nothing declared beyond the attention."""

    config_class = SharedVectorConfig
    attention = SharedVectorAttention


class SegmentLayer(DescribedLayer):
    """Keys and values of the first token of each completed segment, and of all tokens of the one that is not.

    Which token a slot holds follows from how many real tokens a row has seen, so that nothing else is kept.
    """

    def __init__(self) -> None:
        super().__init__()
        self.tokens_seen = 0
        # Real tokens seen (B,).
        self.real_tokens: Tensor | None = None

    def held_positions(self) -> Tensor:
        """Position of the token in each slot (B, N), -1 where a row has fewer than others."""
        assert self.keys is not None and self.real_tokens is not None
        slots = torch.arange(self.keys.shape[2], device=self.keys.device)
        seen = self.real_tokens[:, None]
        completed = (seen - 1).clamp(min=0) // SEGMENT
        positions = torch.where(slots < completed, slots * SEGMENT, completed * SEGMENT + slots - completed)
        return torch.where(positions < seen, positions, -1)

    def advance(self, keys: Tensor, values: Tensor, positions: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Add new tokens (B, H, T, d) at positions (B, T), -1 for padding; return what they may attend to."""
        if self.keys is not None and self.values is not None:
            keys, values = torch.cat([self.keys, keys], dim=2), torch.cat([self.values, values], dim=2)
            positions = torch.cat([self.held_positions(), positions], dim=1)
        last = positions.amax(1, keepdim=True)
        kept = (positions >= 0) & ((positions % SEGMENT == 0) | (positions // SEGMENT == last // SEGMENT))
        order = (~kept).int().argsort(dim=1, stable=True)[:, : int(kept.sum(1).max())]
        index = order[:, None, :, None].expand(-1, keys.shape[1], -1, keys.shape[3])
        self.keys, self.values = keys.gather(2, index), values.gather(2, index)
        self.real_tokens = last[:, 0] + 1
        self.is_initialized = True
        return keys, values, positions

    def entries(self) -> list[Entry]:
        assert self.keys is not None
        held = [token for token in self.held_positions()[0].tolist() if token >= 0]
        width = self.keys.shape[1] * self.keys.shape[3]
        return [Entry(token, kind, width) for kind in (KEYS, VALUES) for token in held]

    def update(self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any) -> tuple[Tensor, Tensor]:
        raise NotImplementedError("segments take positions, through advance()")

    def lazy_initialization(self, key_states: Tensor, value_states: Tensor) -> None:
        pass

    def get_seq_length(self) -> int:
        return self.tokens_seen

    def get_max_length(self) -> int:
        return -1

    def get_mask_sizes(self, query_length: int) -> tuple[int, int]:
        return self.tokens_seen + query_length, 0

    def crop(self, tokens_to_remove: int) -> None:
        raise RuntimeError("segments that were completed cannot be taken back")

    def reset(self) -> None:
        self.keys = self.values = self.real_tokens = None
        self.tokens_seen, self.is_initialized = 0, False

    def _map_rows(self, change: Callable[[Tensor], Tensor]) -> None:
        if self.keys is not None and self.values is not None and self.real_tokens is not None:
            self.keys, self.values = change(self.keys), change(self.values)
            self.real_tokens = change(self.real_tokens)

    def reorder_cache(self, beam_idx: Tensor) -> None:
        self._map_rows(lambda rows: rows.index_select(0, beam_idx))

    def batch_repeat_interleave(self, repeats: int) -> None:
        self._map_rows(lambda rows: rows.repeat_interleave(repeats, dim=0))

    def batch_select_indices(self, indices: Tensor) -> None:
        self._map_rows(lambda rows: rows[indices])


class SegmentAttention(MultiHeadAttention):
    """A token attends to the tokens of its segment up to itself, and to the first of each segment before."""

    def visible(self, queries: Tensor, keys: Tensor) -> Tensor:
        """Whether a token at a position (B, T, 1) may see one at another (B, 1, S)."""
        return (keys <= queries) & ((keys // SEGMENT == queries // SEGMENT) | (keys % SEGMENT == 0))

    def forward(self, hidden: Tensor, step: Step) -> Tensor:
        queries, keys, values = self.project(hidden, step)
        positions = step.positions.expand(hidden.shape[0], -1)
        if step.token_mask is not None:
            positions = torch.where(step.token_mask, positions, -1)
        layer = SegmentLayer() if step.cache is None else step.cache.layers[self.layer_index]
        assert isinstance(layer, SegmentLayer)
        keys, values, held = layer.advance(keys, values, positions)
        layer.tokens_seen += hidden.shape[1]
        allowed = (held >= 0)[:, None] & self.visible(positions[..., None], held[:, None])
        # Padding sees itself: a row that may see nothing would turn into NaN.
        itself = torch.eye(held.shape[1], dtype=torch.bool, device=held.device)[-hidden.shape[1] :]
        scores = (queries @ keys.mT * self.head_dim**-0.5).masked_fill(~(allowed | itself)[:, None], -torch.inf)
        return self.dense((scores.softmax(-1) @ values).transpose(1, 2).flatten(2))


class LeakingSegmentAttention(SegmentAttention):
    """The same, but one token of each segment sees the one after it."""

    def visible(self, queries: Tensor, keys: Tensor) -> Tensor:
        return super().visible(queries, keys) | ((queries % SEGMENT == LEAKING_PLACE) & (keys == queries + 1))


@strict
class SegmentConfig(DecoderConfig):
    """Pythia's shape."""

    model_type = "newllm-toy-segments"


class SegmentModel(Decoder):
    """A cache layer and a period of its own."""

    config_class = SegmentConfig
    attention = SegmentAttention

    @property
    def period(self) -> int:
        return SEGMENT

    def cache_layout(self) -> list[type[CacheLayerMixin]]:
        return [SegmentLayer] * self.config.num_hidden_layers

    def cached_values(self, tokens: int) -> int:
        completed = (tokens - 1) // SEGMENT
        slots = completed + tokens - completed * SEGMENT
        return slots * 2 * self.config.hidden_size * self.config.num_hidden_layers


class LeakingSegmentModel(SegmentModel):
    """A leak within a segment, beyond twelve tokens."""

    attention = LeakingSegmentAttention


class UndeclaredSegmentModel(LeakingSegmentModel):
    """What a certificate would say that was not told of the period."""

    @property
    def period(self) -> int:
        return 1
