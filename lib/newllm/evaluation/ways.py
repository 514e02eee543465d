"""The ways to run the same tokens through a model: at once or in pieces, with a mask or without, padded or not."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import cast

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from newllm.evaluation.certificate import few
from newllm.evaluation.probing import forward_in_pieces, positions_of

PADDINGS = 4


@dataclass(frozen=True)
class Way:
    """One way to run the same tokens: with a mask or not, padded or not, through the cache in pieces or at once."""

    name: str
    # Columns to change, and for each of them the row of the mask under which it is changed.
    offsets: Sequence[int] = ()
    pieces: Sequence[int] | None = None
    mask: Tensor | None = None
    mask_rows: Sequence[int] | None = None

    @property
    def is_plain(self) -> bool:
        """Whether all tokens go through at once, without a mask."""
        return self.pieces is None and self.mask is None

    def at_few_offsets(self) -> "Way":
        """Return the same way with at most about a dozen of its offsets, both ends among them."""
        kept = few(range(len(self.offsets)))
        rows = None if self.mask_rows is None else [self.mask_rows[index] for index in kept]
        return replace(self, offsets=[self.offsets[index] for index in kept], mask_rows=rows)

    def under_every_padding(self) -> "Way":
        """Return the same way with each of its offsets changed under each row of its mask, instead of under one."""
        if self.mask_rows is None:
            return self
        real = [offset - row for offset, row in zip(self.offsets, self.mask_rows, strict=True)]
        pairs = [(offset + row, row) for row in range(PADDINGS) for offset in real]
        return replace(self, offsets=[column for column, _ in pairs], mask_rows=[row for _, row in pairs])


FULL_PASS = Way("full pass")


def ways_to_run(model: PreTrainedModel, length: int) -> Iterator[Way]:
    """Yield every way to run tokens that is probed, with the offsets (of `length`) that are changed in it.

    The first is the plain one: all tokens at once, without a mask.
    """
    offsets = range(1, length)
    half = length // 2
    yield replace(FULL_PASS, offsets=offsets)
    yield Way("attention mask", offsets, mask=torch.ones(1, length, dtype=torch.long, device=model.device))
    padded = length + PADDINGS - 1
    padding = left_padding(padded, model.device)
    # Each offset, padding not counted, under one of the paddings.
    mask_rows = [offset % PADDINGS for offset in offsets]
    padded_offsets = [offset + row for offset, row in zip(offsets, mask_rows, strict=True)]
    yield Way("left padding", padded_offsets, mask=padding, mask_rows=mask_rows)
    # The last piece spans more than a period, so that a leak inside it shows at every offset.
    yield Way("chunked prefill", offsets, pieces=(2, 1, length // 4, length - length // 4 - 3))
    yield Way(
        "chunked prefill, left padding",
        padded_offsets,
        pieces=(2, 3, length // 4, padded - length // 4 - 5),
        mask=padding,
        mask_rows=mask_rows,
    )
    yield Way("token-by-token decoding", few(offsets), pieces=(half, *[1] * (length - half)))


def left_padding(length: int, device: torch.device) -> Tensor:
    """Masks (PADDINGS, length): row i is padded by i tokens."""
    columns = torch.arange(length, device=device)
    return (columns >= torch.arange(PADDINGS, device=device)[:, None]).long()


def run(model: PreTrainedModel, ids: Tensor, way: Way, mask: Tensor | None, *, as_states: bool = False) -> Tensor:
    """Run tokens (B, T) one way, under a mask (B, T); returns their logits (B, T, V).

    Parameters
    ----------
    model, ids, way, mask
        What is run, and how.
    as_states
        Return the states (B, T, d) that enter the model's head instead.
    """
    with _without_head(model, as_states):
        if way.pieces is not None:
            return torch.cat([logits for _, logits, _ in forward_in_pieces(model, ids, way.pieces, mask)], dim=1)
        if mask is None:
            return model(ids, use_cache=False).logits
        return model(ids, attention_mask=mask, position_ids=positions_of(mask), use_cache=False).logits


@contextmanager
def _without_head(model: PreTrainedModel, wanted: bool) -> Iterator[None]:
    """Let a model return the states that enter its head in the place of logits, where that is wanted."""
    if not wanted:
        yield
        return
    head = model.get_output_embeddings()
    model.set_output_embeddings(cast(nn.Linear, nn.Identity()))
    try:
        yield
    finally:
        model.set_output_embeddings(head)
