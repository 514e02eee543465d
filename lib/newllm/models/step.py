"""What one forward call knows about its tokens: positions, padding and the cache before it."""

from collections.abc import Callable, Hashable
from dataclasses import dataclass, field
from typing import Any, TypeVar

import torch
from torch import Tensor
from transformers.cache_utils import Cache

from newllm.models.conditions import holds_whole_numbers, require
from newllm.models.decoder_cache import CacheContents
from newllm.models.position import PositionEncoding, causal_mask

SharedT = TypeVar("SharedT")

ONE_TEXT_A_CACHE = "texts that are packed into one row are scored, not continued: pass use_cache=False"


@dataclass
class Step:
    """The tokens of one forward call, and what the cache already holds.

    Attributes
    ----------
    embeds
        Token embeddings of this call (B, T, E).
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
    first_positions
        Position of each row's first real token of this call (B or 1,), where positions were given; None where they were
        derived.
    has_gaps
        Whether positions do not go up by one somewhere, or did not in the cache.
    texts
        Which of its row's texts each token belongs to (B or 1, T), where several are packed into a row and none sees
        another; None where each row is one text.
    hidden_states
        What enters each block, in order, where that is to be kept.
    """

    embeds: Tensor
    positions: Tensor
    key_positions: Tensor
    key_mask: Tensor | None = None
    cache: Cache | None = None
    contexts: Tensor | None = None
    first_positions: Tensor | None = None
    has_gaps: bool = False
    texts: Tensor | None = None
    hidden_states: list[Tensor] | None = None
    _shared: dict[Hashable, Any] = field(default_factory=dict)

    @classmethod
    def build(
        cls,
        embeds: Tensor,
        attention_mask: Tensor | None = None,
        position_ids: Tensor | None = None,
        cache: Cache | None = None,
        contexts: Tensor | None = None,
        *,
        takes_gaps: bool = True,
    ) -> "Step":
        """Check a call's arguments and derive positions; the cache is left as it is, until `note_in_cache`.

        Parameters
        ----------
        embeds
            Token embeddings of this call (B, T, E).
        attention_mask
            1 for real tokens, 0 for padding, over cached and new tokens (B, S).
        position_ids
            Positions of the new tokens (B or 1, T); where they do not go up, another text begins. Derived from the
            mask, up by one, where omitted.
        cache
            The cache of the tokens before.
        contexts
            As the attribute.
        takes_gaps
            Whether the model has a use for positions that do not go up by one; where it has none, a graph of
            torch.compile refuses them, and any other call says that there are some.

        Raises
        ------
        ValueError
            Where a shape does not fit, with the shape that would; where positions are no integers; where the mask says
            otherwise of cached tokens than before; where positions fall behind those of the cached tokens.
        """
        if embeds.ndim != 3 or embeds.shape[1] == 0:
            shape = tuple(embeds.shape[:-1])
            raise ValueError(f"input_ids must be (batch, tokens) with at least one token, got {shape}")
        batch, length, _ = embeds.shape
        past = 0 if cache is None else int(cache.get_seq_length())
        contents: CacheContents | None = getattr(cache, "contents", None)
        before = contents if past else None
        if before is not None and before.rows != batch:
            raise ValueError(f"the cache holds {before.rows} rows, but this call has {batch}")
        key_mask = _real_tokens(attention_mask, batch, past + length)
        if before is not None:
            _check_cached_mask(key_mask, before.mask, past)
        key_positions = _derived_positions(key_mask, past, length, before, embeds.device)
        step = cls(embeds, key_positions[:, past:], key_positions, key_mask, cache, contexts)
        step.has_gaps = before is not None and before.positions is not None
        if position_ids is not None:
            step.first_positions = step._take_positions(position_ids, takes_gaps)
        return step

    def note_in_cache(self) -> None:
        """Write into the cache which of its tokens are real, and where they stand.

        Only once nothing of the call is refused any more: a cache that a refused call had changed would go on wrongly.
        """
        contents: CacheContents | None = getattr(self.cache, "contents", None)
        if contents is None:
            return
        batch = self.embeds.shape[0]
        contents.mask = self.key_mask
        contents.positions = self.key_positions.expand(batch, -1) if self.has_gaps else None
        if self.past_length == 0:
            given = self.first_positions
            contents.first_positions = (self.positions.new_zeros(1) if given is None else given).expand(batch)
            contents.is_shifted = given is not None and (torch.compiler.is_compiling() or bool(given.any()))

    def _take_positions(self, given: Tensor, takes_gaps: bool) -> Tensor:
        """Put given positions of the new tokens (B or 1, T) in the place of derived ones.

        A graph of torch.compile is made before the positions are known: it takes them as if they left gaps, which
        computes the same where they leave none, or refuses gaps where the model has no use for them.

        Returns
        -------
        Tensor
            Position of each row's first real token among the new ones (B or 1,).
        """
        batch, length = self.embeds.shape[:2]
        if given.shape not in ((batch, length), (1, length)):
            raise ValueError(f"position_ids must be (batch, new tokens) = {(batch, length)}, got {tuple(given.shape)}")
        if not holds_whole_numbers(given):
            raise ValueError(f"position_ids must be whole numbers, got {given.dtype}")
        past, derived = self.past_length, self.positions
        offset = given - derived
        real = torch.ones_like(offset, dtype=torch.bool) if self.token_mask is None else self.token_mask
        first = offset.gather(1, real.int().argmax(1, keepdim=True))
        self.positions = given
        if past == 0:
            self.key_positions = given
        # Every encoding depends on differences of positions alone, so in an empty cache a shift is no gap.
        goes_up = (offset == (first if past == 0 else 0)) | ~real
        if torch.compiler.is_compiling() and not takes_gaps:
            require(goes_up, "position_ids must go up by one: this model has a recurrence")
            return first[:, 0]
        if not torch.compiler.is_compiling() and bool(goes_up.all()):
            return first[:, 0]
        self.has_gaps = True
        begins = _begins_anew(given.expand(real.shape), real, derived[:, :1] - 1 if past else None)
        if past:
            require(~begins, "position_ids must go on from the cached tokens: another text needs a cache of its own")
            cached = self.key_positions[:, :past].expand(batch, -1)
            self.key_positions = torch.cat([cached, given.expand(batch, -1)], dim=1)
        elif torch.compiler.is_compiling() and self.cache is not None:
            require(~begins, ONE_TEXT_A_CACHE)
        elif torch.compiler.is_compiling() or bool(begins.any()):
            self.texts = begins.cumsum(1)
        return first[:, 0]

    @property
    def length(self) -> int:
        """Number of tokens T of this call."""
        return self.embeds.shape[1]

    @property
    def past_length(self) -> int:
        """Number of tokens cached before this call."""
        return self.key_positions.shape[1] - self.length

    @property
    def is_plain(self) -> bool:
        """Whether the tokens are one text without padding, from its beginning, at consecutive positions."""
        return self.past_length == 0 and self.key_mask is None and self.texts is None and not self.has_gaps

    @property
    def token_mask(self) -> Tensor | None:
        """True where a token of this call is real (B, T); None where all are."""
        return None if self.key_mask is None else self.key_mask[:, self.past_length :]

    def keep_hidden_state(self, hidden: Tensor) -> None:
        """Keep what enters a block (B, T, d), where that was asked for."""
        if self.hidden_states is not None:
            self.hidden_states.append(hidden)

    def once(self, key: Hashable, make: Callable[[], SharedT]) -> SharedT:
        """Make what layers of this call have in common when the first of them asks for it under ``key``."""
        if key not in self._shared:
            self._shared[key] = make()
        return self._shared[key]

    def attention_bias(self, encoding: PositionEncoding, dtype: torch.dtype) -> Tensor | None:
        """Position bias, causal mask and padding mask in one additive tensor (B or 1, 1 or heads, T, S).

        None where plain causal attention from an empty cache, or one new token that sees everything, needs no tensor.
        Built once a call and shared by its layers.
        """
        return self.once(("bias", id(encoding.config), dtype), lambda: self._build_bias(encoding, dtype))

    def explicit_bias(self, encoding: PositionEncoding, dtype: torch.dtype) -> Tensor:
        """Return `attention_bias` where no kernel masks by itself: a tensor also for plain causal attention."""
        bias = self.attention_bias(encoding, dtype)
        if bias is None:
            total = self.key_positions.shape[1]
            bias = causal_mask(self.length, total, dtype, self.embeds.device)[None, None]
        return bias

    def _build_bias(self, encoding: PositionEncoding, dtype: torch.dtype) -> Tensor | None:
        query_positions = self.key_positions[:, self.past_length :]
        bias = encoding.score_bias(query_positions, self.key_positions, dtype)
        plain = self.key_mask is None and self.texts is None
        if bias is None and plain and (self.past_length == 0 or self.length == 1):
            return None
        total = self.key_positions.shape[1]
        mask = causal_mask(self.length, total, dtype, self.embeds.device)[None, None]
        if self.texts is not None:
            mask = mask.masked_fill((self.texts[:, :, None] != self.texts[:, None])[:, None], -torch.inf)
        if self.key_mask is not None:
            # A padding query keeps itself: a row that may see nothing would turn into NaN.
            itself = torch.eye(total, dtype=torch.bool, device=mask.device)[self.past_length :]
            allowed = self.key_mask[:, None, None, :] | itself
            mask = mask.masked_fill(~allowed, -torch.inf)
        return mask if bias is None else mask + bias


def _real_tokens(attention_mask: Tensor | None, batch: int, total: int) -> Tensor | None:
    """Return a caller's mask as True and False (B, S); None where no token is padding."""
    if attention_mask is None:
        return None
    if attention_mask.shape != (batch, total):
        raise ValueError(
            f"attention_mask must be (batch, cached + new tokens) = {(batch, total)}, got {tuple(attention_mask.shape)}"
        )
    mask = attention_mask.bool()
    if attention_mask.dtype != torch.bool:
        # A mask that is added to scores (zeros, and -inf at padding) would be read the wrong way round.
        plain = attention_mask == mask.to(attention_mask.dtype)
        require(plain, "attention_mask must be 1 for real tokens and 0 for padding, and nothing else")
    # A graph cannot ask whether any token is padding.
    return None if not torch.compiler.is_compiling() and bool(mask.all()) else mask


def _check_cached_mask(mask: Tensor | None, cached: Tensor | None, past: int) -> None:
    """Refuse a mask (B, S) that says otherwise of the cached tokens than the one they were cached under."""
    given = mask if cached is None else cached
    if given is None:
        return
    # Without a mask, all tokens are real.
    all_real = torch.ones_like(given[:, :past])
    before = all_real if cached is None else cached[:, :past]
    now = all_real if mask is None else mask[:, :past]
    require(
        before == now,
        "attention_mask says otherwise of the cached tokens than when they were cached: give the mask of all tokens in "
        "every call, cached ones first",
    )


def _derived_positions(
    mask: Tensor | None, past: int, length: int, before: CacheContents | None, device: torch.device
) -> Tensor:
    """Positions of cached and new tokens (B or 1, S): up by one from real token to real token, on from cached ones."""
    if before is not None and before.positions is not None:
        cached = before.positions[:, :past]
        real = cached if mask is None else torch.where(mask[:, :past], cached, -1)
        steps = torch.ones_like(real[:, :1]).expand(-1, length) if mask is None else mask[:, past:].long()
        following = real.amax(1, keepdim=True) + steps.cumsum(1)
        return torch.cat([cached, following.clamp(min=0)], dim=1)
    rank = torch.arange(past + length, device=device)[None] if mask is None else (mask.cumsum(1) - 1).clamp(min=0)
    return rank + before.first_positions[:, None] if before is not None and before.is_shifted else rank


def _begins_anew(positions: Tensor, real: Tensor, last: Tensor | None) -> Tensor:
    """Find the real tokens whose position does not lie above that of the real token before them in their row.

    Parameters
    ----------
    positions
        (B, T).
    real
        True where a token is real (B, T).
    last
        Position of the last token before all of them (B or 1, 1); None where there is none.

    Returns
    -------
    Tensor
        (B, T), bool.
    """
    indices = torch.arange(positions.shape[1], device=positions.device)
    latest = torch.where(real, indices, -1).cummax(1).values
    previous = torch.cat([torch.full_like(latest[:, :1], -1), latest[:, :-1]], dim=1)
    before = positions.amin() - 1 if last is None else last
    return real & (positions <= torch.where(previous < 0, before, positions.gather(1, previous.clamp(min=0))))
