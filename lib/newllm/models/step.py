"""What one forward call knows about its tokens: positions, padding and the cache before it."""

from dataclasses import dataclass, field

import torch
from torch import Tensor
from transformers.cache_utils import Cache

from newllm.models.position import PositionEncoding, causal_mask


@dataclass
class Step:
    """The tokens of one forward call, and what the cache already holds.

    Attributes
    ----------
    input_ids
        Tokens of this call (B, T).
    positions
        Position of each token of this call (B or 1, T), padding not counted.
    key_positions
        Position of each token so far, cached ones first (B or 1, S).
    key_mask
        True where a real token stands (B, S); None where no token is padding.
    cache
        The cache of the tokens before, to be extended; None where nothing is cached.
    contexts
        What the model reads of its recurrences at each token of this call (B, T, P), collected before; None where they
        are to run.
    """

    input_ids: Tensor
    positions: Tensor
    key_positions: Tensor
    key_mask: Tensor | None
    cache: Cache | None
    contexts: Tensor | None = None
    _biases: dict[tuple[int, torch.dtype], Tensor | None] = field(default_factory=dict)

    @classmethod
    def build(
        cls,
        input_ids: Tensor,
        attention_mask: Tensor | None,
        position_ids: Tensor | None,
        cache: Cache | None,
        contexts: Tensor | None = None,
    ) -> "Step":
        """Check a call's arguments and derive positions.

        Raises
        ------
        ValueError
            Where a shape does not fit, with the shape that would.
        """
        if input_ids.ndim != 2 or input_ids.shape[1] == 0:
            raise ValueError(f"input_ids must be (batch, tokens) with at least one token, got {tuple(input_ids.shape)}")
        batch, length = input_ids.shape
        past = 0 if cache is None else cache.get_seq_length()
        total = past + length
        key_mask = None
        if attention_mask is not None:
            if attention_mask.shape != (batch, total):
                raise ValueError(
                    f"attention_mask must be (batch, cached + new tokens) = {(batch, total)}, "
                    f"got {tuple(attention_mask.shape)}"
                )
            mask = attention_mask.bool()
            key_mask = None if bool(mask.all()) else mask
        if key_mask is None:
            key_positions = torch.arange(total, device=input_ids.device)[None]
        else:
            key_positions = (key_mask.cumsum(1) - 1).clamp(min=0)
        positions = key_positions[:, past:] if position_ids is None else position_ids
        if positions.shape[-1] != length:
            raise ValueError(f"position_ids must cover the {length} new tokens, got {tuple(positions.shape)}")
        return cls(input_ids, positions, key_positions, key_mask, cache, contexts)

    @property
    def length(self) -> int:
        """Number of tokens T of this call."""
        return self.input_ids.shape[1]

    @property
    def past_length(self) -> int:
        """Number of tokens cached before this call."""
        return self.key_positions.shape[1] - self.length

    @property
    def token_mask(self) -> Tensor | None:
        """True where a token of this call is real (B, T); None where all are."""
        return None if self.key_mask is None else self.key_mask[:, self.past_length :]

    def attention_bias(self, encoding: PositionEncoding, dtype: torch.dtype) -> Tensor | None:
        """Position bias, causal mask and padding mask in one additive tensor (B or 1, 1 or heads, T, S).

        None where plain causal attention from an empty cache, or one new token that sees everything, needs no tensor.
        Built once a call and shared by its layers.
        """
        key = (id(encoding.config), dtype)
        if key not in self._biases:
            self._biases[key] = self._build_bias(encoding, dtype)
        return self._biases[key]

    def explicit_bias(self, encoding: PositionEncoding, dtype: torch.dtype) -> Tensor:
        """Return `attention_bias` where no kernel masks by itself: a tensor also for plain causal attention."""
        bias = self.attention_bias(encoding, dtype)
        if bias is None:
            total = self.key_positions.shape[1]
            bias = causal_mask(self.length, total, dtype, self.input_ids.device)[None, None]
        return bias

    def _build_bias(self, encoding: PositionEncoding, dtype: torch.dtype) -> Tensor | None:
        query_positions = self.key_positions[:, self.past_length :]
        bias = encoding.score_bias(query_positions, self.key_positions, dtype)
        if bias is None and self.key_mask is None and (self.past_length == 0 or self.length == 1):
            return None
        total = self.key_positions.shape[1]
        mask = causal_mask(self.length, total, dtype, self.input_ids.device)[None, None]
        if self.key_mask is not None:
            # A padding query keeps itself: a row that may see nothing would turn into NaN.
            itself = torch.eye(total, dtype=torch.bool, device=mask.device)[self.past_length :]
            allowed = self.key_mask[:, None, None, :] | itself
            mask = mask.masked_fill(~allowed, -torch.inf)
        return mask if bias is None else mask + bias
