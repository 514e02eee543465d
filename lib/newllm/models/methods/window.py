"""Window-Pythia: keys and values of the last tokens and of the first few are kept, and all others are forgotten."""

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from huggingface_hub.dataclasses import strict
from torch import Tensor
from transformers.cache_utils import CacheLayerMixin

from newllm.models.attention import MultiHeadAttention, attend_with_bias
from newllm.models.cache_entries import KEYS, VALUES, Entry
from newllm.models.cache_layers import ForgettingLayer
from newllm.models.config import GroupedDecoderConfig
from newllm.models.decoder import Decoder
from newllm.models.registry import Paper, register
from newllm.models.step import Step

# As many as Xiao et al. (2023) found to be enough.
SINKS = 4


@strict
class WindowPythiaConfig(GroupedDecoderConfig):
    """Pythia's shape with a memory of fixed length.

    Attributes
    ----------
    window
        Tokens before a token that it sees, and that are kept.
    sinks
        First tokens of a text that are kept beside them, and seen by all.
    """

    model_type = "newllm-window"

    window: int = 96
    sinks: int = SINKS

    def validate_architecture(self) -> None:
        """Refuse shapes that no model can have, naming the field."""
        super().validate_architecture()
        self.require_positive("window")
        if self.sinks < 0:
            raise ValueError(f"sinks={self.sinks} must be at least 0")


class WindowLayer(ForgettingLayer):
    """Keys and values of the last ``window`` real tokens of each row and of its first ``sinks``.

    Which token a slot holds follows from the mask and from two counts, so nothing else is kept: the slots hold what was
    left when tokens were last dropped, and then all tokens since.
    """

    def __init__(self) -> None:
        super().__init__()
        self.window = self.sinks = 0
        # Tokens seen when some were last dropped; 0 where none ever was.
        self.tokens_at_drop = 0

    @property
    def is_croppable(self) -> bool:  # type: ignore[override]
        """Whether nothing was dropped yet, so that tokens can be taken back without a recording."""
        return self.tokens_at_drop == 0

    def columns(self, mask: Tensor | None, device: torch.device) -> Tensor:
        """Column of the token in each slot (B or 1, N), padding counted; -1 where a row has fewer than others.

        Parameters
        ----------
        mask
            True where a real token stands, among all tokens seen or more (B, S); None where all are.
        device
            Where to make it.
        """
        since = torch.arange(self.tokens_at_drop, self.tokens_seen, device=device)[None]
        if self.tokens_at_drop == 0:
            return since
        if mask is None:
            first = torch.arange(self.sinks, device=device)
            last = torch.arange(self.tokens_at_drop - self.window, self.tokens_at_drop, device=device)
            return torch.cat([first[None], last[None], since], dim=1)
        left = self._is_kept(mask[:, : self.tokens_at_drop])
        order, count = _kept_first(left)
        order = torch.where(torch.arange(order.shape[1], device=device) < count, order, -1)
        if self.keys is not None:
            # Where longer rows were taken out of the batch, the others keep the slots that they never filled.
            held = self.keys.shape[2] - since.shape[1]
            order = F.pad(order, (0, max(held - order.shape[1], 0)), value=-1)
        return torch.cat([order, since.expand(len(order), -1)], dim=1)

    def _is_kept(self, mask: Tensor) -> Tensor:
        """Whether a token is one of the last or first real ones of its row (B, S)."""
        rank, total = mask.cumsum(1) - 1, mask.sum(1, keepdim=True)
        return mask & ((rank < self.sinks) | (rank >= total - self.window))

    def extend(self, keys: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
        """Return kept keys and values with those of new tokens behind them, each (B, G, N + T, d_h)."""
        if self.keys is None or self.values is None:
            return keys, values
        return torch.cat([self.keys, keys], dim=2), torch.cat([self.values, values], dim=2)

    def keep(self, keys: Tensor, values: Tensor, columns: Tensor, mask: Tensor | None) -> None:
        """Keep what later tokens may see of old and new keys and values.

        Parameters
        ----------
        keys, values
            As `extend` gives them (B, G, N + T, d_h).
        columns
            Column of the token in each of these slots (B or 1, N + T), as `columns` gives them.
        mask
            True where a real token stands, among all tokens so far (B, S); None where all are.
        """
        self.tokens_seen += keys.shape[2] - (0 if self.keys is None else self.keys.shape[2])
        self.is_initialized = True
        if self.record_past or self.tokens_seen <= self.window + self.sinks:
            # A copy where it is a view: of a longer tensor, all of it would be kept alive.
            self.keys, self.values = (states.clone() if states._is_view() else states for states in (keys, values))
            return
        self.tokens_at_drop = self.tokens_seen
        if mask is None:
            self.keys, self.values = (
                torch.cat([states[:, :, : self.sinks], states[:, :, -self.window :]], dim=2)
                for states in (keys, values)
            )
            return
        left = (columns >= 0) & _take(self._is_kept(mask), columns)
        order = _kept_first(left)[0][:, None, :, None]
        self.keys, self.values = (
            states.gather(2, order.expand(-1, states.shape[1], -1, states.shape[3])) for states in (keys, values)
        )

    def entries(self) -> list[Entry]:
        """Describe keys and values of each token that is kept."""
        if self.keys is None:
            return []
        tokens = self.columns(None, self.keys.device)[0].tolist()[: self.keys.shape[2]]
        width = self.keys.shape[1] * self.keys.shape[3]
        return [Entry(token, kind, width) for kind in (KEYS, VALUES) for token in tokens]

    def check_crop(self, tokens_to_remove: int) -> None:
        """Raise what `crop` would raise, and change nothing."""
        super().check_crop(tokens_to_remove)
        if self.tokens_seen + tokens_to_remove < self.tokens_at_drop:
            raise RuntimeError(
                f"a window cannot be cropped by {-tokens_to_remove} tokens, what they pushed out of it is gone: make "
                "a new cache with model.new_cache() and call cache.activate_past_recording() before the tokens to be "
                "removed"
            )

    def crop(self, tokens_to_remove: int) -> None:
        """Forget the last ``-tokens_to_remove`` tokens; RuntimeError where others were dropped for them."""
        self.check_crop(tokens_to_remove)
        if tokens_to_remove < 0 and self.keys is not None and self.values is not None:
            self.keys, self.values = self.keys[:, :, :tokens_to_remove], self.values[:, :, :tokens_to_remove]
            self.tokens_seen += tokens_to_remove

    def update(self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any) -> tuple[Tensor, Tensor]:
        """Refuse: what is kept depends on the mask."""
        raise NotImplementedError("a window takes keys and values through extend() and keep()")

    def reset(self) -> None:
        """Return to the state before the first token."""
        super().reset()
        self.keys = self.values = None
        self.tokens_at_drop = 0

    def _map_rows(self, change: Callable[[Tensor], Tensor]) -> None:
        if self.keys is not None and self.values is not None:
            self.keys, self.values = change(self.keys), change(self.values)


def _kept_first(kept: Tensor) -> tuple[Tensor, Tensor]:
    """Places of what is kept (B, S), in order, as many as any row keeps (B, N); and how many each keeps (B, 1)."""
    count = kept.sum(1, keepdim=True)
    return (~kept).int().argsort(dim=1, stable=True)[:, : int(count.max())], count


class WindowAttention(MultiHeadAttention):
    """A token attends to itself, to the ``window`` tokens before it, and to the first ``sinks`` of its text.

    Positions are those in the text, not those in the cache as in Xiao et al. (2023, sec. 3.2): with distances beyond
    those of training this is another model than theirs, and within them the same function at every length.
    """

    reads_cache_through_update = False

    def __init__(self, config: WindowPythiaConfig, layer_index: int) -> None:
        super().__init__(config, layer_index)
        self.window, self.sinks = config.window, config.sinks

    def forward(self, hidden: Tensor, step: Step) -> Tensor:
        """Attend from ``hidden`` (B, T, d) to it and to what is kept; returns (B, T, d)."""
        queries, keys, values = self.project(hidden, step)
        layer = WindowLayer() if step.cache is None else step.cache.layers[self.layer_index]
        assert isinstance(layer, WindowLayer)
        layer.window, layer.sinks = self.window, self.sinks
        # All layers hold the same tokens.
        columns = step.once("columns of a window", lambda: self._columns(layer, step))
        bias = step.once("bias of a window", lambda: self._bias(columns, step, queries.dtype))
        keys, values = layer.extend(keys, values)
        if step.cache is not None:
            layer.keep(keys, values, columns, step.key_mask)
        output = attend_with_bias(queries, keys, values, bias, self.head_dim**-0.5)
        return self.join(output)

    def _columns(self, layer: WindowLayer, step: Step) -> Tensor:
        """Column of the token in each slot, kept ones first (B or 1, N + T)."""
        device = step.key_positions.device
        kept = layer.columns(step.key_mask, device)
        new = torch.arange(step.past_length, step.key_positions.shape[1], device=device)
        return torch.cat([kept, new.expand(len(kept), -1)], dim=1)

    def _bias(self, columns: Tensor, step: Step, dtype: torch.dtype) -> Tensor | None:
        """Position bias and what is not seen in one tensor (B or 1, 1 or heads, T, N + T); None where there is none."""
        plain = step.key_mask is None and step.texts is None
        fits = columns.shape[1] - 1 <= self.window + self.sinks
        if plain and fits and step.past_length == 0:
            return step.attention_bias(self.position, dtype)
        of_positions = self.position.score_bias(step.positions, _take(step.key_positions, columns), dtype)
        if plain and fits and step.length == 1:
            # What is kept is what one more token may see.
            return of_positions
        own = columns[:1, -step.length :, None]
        itself = columns[:, None] == own
        seen = (columns >= 0)[:, None] & (columns[:, None] <= own)
        rank = torch.arange(step.key_positions.shape[1], device=columns.device)[None]
        if step.key_mask is not None:
            seen = seen & _take(step.key_mask, columns)[:, None]
            rank = step.key_mask.cumsum(1) - 1
        if step.texts is not None:
            seen = seen & (step.texts[:, :, None] == step.texts[:, None])
            rank = _rank_in_text(rank, step.texts)
        ranks = _take(rank, columns)
        distance = rank[:, step.past_length :, None] - ranks[:, None]
        seen = seen & ((distance <= self.window) | (ranks < self.sinks)[:, None])
        # Padding sees itself: a row that may see nothing would turn into NaN.
        hidden = torch.zeros(seen.shape, dtype=dtype, device=seen.device).masked_fill(~(seen | itself), -torch.inf)
        return hidden[:, None] if of_positions is None else hidden[:, None] + of_positions


def _take(table: Tensor, columns: Tensor) -> Tensor:
    """Entries of a table (B or 1, S) at columns (B or 1, N), of which those below 0 mean nothing: (B or 1, N)."""
    rows = max(len(table), len(columns))
    return table.expand(rows, -1).gather(1, columns.clamp(min=0).expand(rows, -1))


def _rank_in_text(rank: Tensor, texts: Tensor) -> Tensor:
    """Count tokens from the beginning of their own text, by their rank in the row and their text, each (B or 1, T)."""
    begins = torch.ones_like(texts, dtype=torch.bool)
    begins[:, 1:] = texts[:, 1:] != texts[:, :-1]
    return rank - torch.where(begins, rank, 0).cummax(1).values


@register(
    "window",
    lambda size: {"window": size.chunk_size - SINKS},
    summary="a control: keys and values of the last tokens and of the first few, in every layer, whatever the length",
    control="cascade",
    papers=(
        Paper("Beltagy et al.", 2020, "https://arxiv.org/abs/2004.05150"),
        Paper("Xiao et al.", 2023, "https://arxiv.org/abs/2309.17453"),
    ),
)
class WindowPythiaModel(Decoder):
    """Pythia's blocks with a sliding window and attention sinks: what memory of fixed size costs without a recurrence.

    As registered it keeps as many tokens as ``context-kv`` has in a chunk, 100 and at size tiny 8. The bytes of
    ``context-kv`` or ``cascade`` are less than those of one token here: beside them it is a control that keeps more.
    """

    config_class = WindowPythiaConfig
    attention = WindowAttention
    # Tokens that were forgotten cannot be taken back, so assisted generation is refused.
    _is_stateful = True

    @property
    def period(self) -> int:
        """Tokens after which the first one is forgotten."""
        return self.config.window + self.config.sinks

    def refuse_short_windows(self, seq_length: int) -> None:
        """Refuse windows whose last token still sees every other one, as pythia's does."""
        if seq_length < self.period + 2:
            largest = seq_length - 2 - self.config.sinks
            narrower = f"a window of at most {largest}, or " if largest > 0 else ""
            raise ValueError(
                f"window={self.config.window} and sinks={self.config.sinks} forget nothing in windows of "
                f"seq_length={seq_length} tokens, which is pythia: take {narrower}a seq_length of at least "
                f"{self.period + 2}"
            )

    def cache_layout(self) -> list[type[CacheLayerMixin]]:
        """One window a block."""
        return [WindowLayer] * self.config.num_hidden_layers

    def cached_values(self, tokens: int) -> int:
        """Keys and values of the tokens that are kept."""
        return super().cached_values(min(tokens, self.config.window + self.config.sinks))
