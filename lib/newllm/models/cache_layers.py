"""Cache layers that do not hold every token, and those of recurrences among them.

A recurrence remembers one vector a sequence, whatever its length: that is `RecurrentStateLayer`, which stands after the
layers by token in the same cache. `ChunkContextLayer` keeps one more vector a chunk.
"""

from abc import abstractmethod
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from newllm.models.cache_entries import CHUNK_END, STATE, DescribedLayer, Entry


class ForgettingLayer(DescribedLayer):
    """A layer that does not hold every token that it has seen: it counts them, and forgets none while it records."""

    def __init__(self) -> None:
        super().__init__()
        self.tokens_seen = 0
        self.record_past = False

    def activate_past_recording(self) -> None:
        """Forget nothing from now on, so that `crop` is exact."""
        self.record_past = True

    def check_crop(self, tokens_to_remove: int) -> None:
        """Raise what `crop` would raise, and change nothing."""
        if tokens_to_remove > 0:
            raise ValueError(f"crop takes a negative number of tokens to remove, got {tokens_to_remove}")

    def get_seq_length(self) -> int:
        """Return the number of tokens seen, padding and forgotten ones included."""
        return self.tokens_seen

    def get_max_length(self) -> int:
        """Return -1: a text has no maximal length."""
        return -1

    def get_mask_sizes(self, query_length: int) -> tuple[int, int]:
        """Return (tokens seen and new ones, 0), as a full-length layer would."""
        return self.tokens_seen + query_length, 0

    def lazy_initialization(self, key_states: Tensor, value_states: Tensor) -> None:
        """Do nothing: the first tokens set what is kept."""

    def reset(self) -> None:
        """Return to the state before the first token."""
        self.tokens_seen = 0
        self.is_initialized = False

    @abstractmethod
    def _map_rows(self, change: Callable[[Tensor], Tensor]) -> None:
        """Change every tensor that has a row a sequence."""

    def reorder_cache(self, beam_idx: Tensor) -> None:
        """Follow beam search: row i becomes row ``beam_idx[i]``."""
        self._map_rows(lambda rows: rows.index_select(0, beam_idx.to(rows.device)))

    def batch_repeat_interleave(self, repeats: int) -> None:
        """Repeat each row ``repeats`` times."""
        self._map_rows(lambda rows: rows.repeat_interleave(repeats, dim=0))

    def batch_select_indices(self, indices: Tensor) -> None:
        """Keep the rows ``indices``."""
        self._map_rows(lambda rows: rows[indices])


class RecurrentStateLayer(ForgettingLayer):
    """The last context of a recurrence, (B, P), and how many tokens it has seen.

    It can be cropped only while past recording is on, which costs P values a token: one vector does not tell what it
    was before.
    """

    is_croppable = False

    def __init__(self) -> None:
        super().__init__()
        self.state: Tensor | None = None
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

    def check_crop(self, tokens_to_remove: int) -> None:
        """Raise what `crop` would raise, and change nothing."""
        super().check_crop(tokens_to_remove)
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

    def update(self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any) -> tuple[Tensor, Tensor]:
        """Refuse: a state has neither keys nor values."""
        raise NotImplementedError("a recurrent state takes contexts, through advance()")

    def offload(self) -> None:
        """Do nothing: a state is too small to be worth moving."""

    def prefetch(self) -> None:
        """Do nothing: a state is never offloaded."""

    def reset(self) -> None:
        """Return to the state before the first token."""
        super().reset()
        self.state = self.history = None

    def _map_rows(self, change: Callable[[Tensor], Tensor]) -> None:
        self.state = None if self.state is None else change(self.state)
        self.history = None if self.history is None else change(self.history)


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
