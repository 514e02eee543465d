"""Probes of causality that change a token: nothing before it may move, and what it stands for must."""

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import PreTrainedModel

from newllm.evaluation.certificate import POWER, SHORT_LENGTH, Check, few, finite
from newllm.evaluation.probing import EXACT, forward_in_pieces, other_tokens, positions_of, random_tokens
from newllm.models.language_model import LanguageModel

PADDINGS = 4
# Values of float64 outputs held at once: logits, 128 MB; states, of which blocks hold many times as much, 16 MB.
LOGITS_AT_ONCE = 2**24
STATES_AT_ONCE = 2**21
# Positions whose states moved most, of each batch of probes, that are turned into logits.
POSITIONS_AS_LOGITS = 32


@dataclass(frozen=True)
class Mode:
    """One way to run the same tokens: with a mask or not, padded or not, through the cache in pieces or at once."""

    name: str
    # Columns to change, and for each of them the row of the mask under which it is changed.
    offsets: Sequence[int]
    pieces: Sequence[int] | None = None
    mask: Tensor | None = None
    mask_rows: Sequence[int] | None = None


def modes(model: PreTrainedModel, length: int) -> Iterator[Mode]:
    """Yield every way to run tokens that is probed, with the offsets (of `length`) that are changed in it."""
    offsets = range(1, length)
    half = length // 2
    yield Mode("full pass", offsets)
    yield Mode("attention mask", offsets, mask=torch.ones(1, length, dtype=torch.long, device=model.device))
    padded = length + PADDINGS - 1
    padding = _left_padding(padded, model.device)
    # Each offset, padding not counted, under one of the paddings.
    mask_rows = [offset % PADDINGS for offset in offsets]
    padded_offsets = [offset + row for offset, row in zip(offsets, mask_rows, strict=True)]
    yield Mode("left padding", padded_offsets, mask=padding, mask_rows=mask_rows)
    # The last piece spans more than a period, so that a leak inside it shows at every offset.
    yield Mode("chunked prefill", offsets, pieces=(2, 1, length // 4, length - length // 4 - 3))
    yield Mode(
        "chunked prefill, left padding",
        padded_offsets,
        pieces=(2, 3, length // 4, padded - length // 4 - 5),
        mask=padding,
        mask_rows=mask_rows,
    )
    yield Mode("token-by-token decoding", few(offsets), pieces=(half, *[1] * (length - half)))


def _left_padding(length: int, device: torch.device) -> Tensor:
    """Masks (PADDINGS, length): row i is padded by i tokens."""
    columns = torch.arange(length, device=device)
    return (columns >= torch.arange(PADDINGS, device=device)[:, None]).long()


def _run(model: PreTrainedModel, ids: Tensor, mode: Mode, mask: Tensor | None) -> Iterator[Tensor]:
    """Yield the logits of each piece."""
    if mode.pieces is not None:
        for _, logits, _ in forward_in_pieces(model, ids, mode.pieces, mask):
            yield logits
    elif mask is None:
        yield model(ids, use_cache=False).logits
    else:
        yield model(ids, attention_mask=mask, position_ids=positions_of(mask), use_cache=False).logits


@contextmanager
def _as_states(model: PreTrainedModel, wanted: bool) -> Iterator[None]:
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


def _run_as_states(
    model: PreTrainedModel, ids: Tensor, mode: Mode, mask: Tensor | None, logits: Tensor
) -> tuple[nn.Linear, Tensor] | None:
    """Find the linear head that makes the logits (B, T, V) of these tokens, and the states (B, T, d) that enter it.

    None where the logits are anything else than that head's, at any of these tokens, or no shorter to compute.
    """
    head = model.get_output_embeddings() if isinstance(model, LanguageModel) else None
    if type(head) is not nn.Linear or head.in_features >= head.out_features:
        return None
    with _as_states(model, True):
        states = torch.cat(list(_run(model, ids, mode, mask)), dim=1)
    difference = finite((head(states) - logits).abs().max().item())
    return (head, states) if difference <= EXACT * max(1.0, logits.abs().max().item()) else None


@torch.no_grad()
def check_later_tokens(model: PreTrainedModel, mode: Mode, length: int, generator: torch.Generator) -> Check:
    """Change one token a row; nothing before it may move, it and some token after it must.

    Where the logits of the unchanged tokens are a linear map of states, states are compared in their place, which costs
    a fraction; what moved most of them is turned into logits too.
    """
    length = length if mode.mask is None else mode.mask.shape[1]
    tokens = random_tokens(model, 1, length, generator)
    others = other_tokens(model, tokens, generator)
    variants = 1 if mode.mask is None else mode.mask.shape[0]
    unchanged = tokens.expand(variants, -1)
    logits = torch.cat(list(_run(model, unchanged, mode, mode.mask)), dim=1)
    by_states = _run_as_states(model, unchanged, mode, mode.mask, logits)
    head, base = (None, logits) if by_states is None else by_states
    scale, scale_of_logits = (max(1.0, outputs.abs().max().item()) for outputs in (base, logits))
    columns = torch.arange(length, device=model.device)

    def sizes_as_logits(differences: Tensor) -> Tensor:
        """Largest change of a logit (N,) by differences of outputs (N, width)."""
        of_logits = differences if head is None else F.linear(differences, head.weight)
        return of_logits.abs().amax(-1).nan_to_num(math.inf)

    leak, excess, where, own, memory = 0.0, 0.0, (0, 0), math.inf, 0.0
    at_once = LOGITS_AT_ONCE if head is None else STATES_AT_ONCE
    rows_at_once = max(1, at_once // (length * base.shape[2]))
    for first in range(0, len(mode.offsets), rows_at_once):
        changed = torch.tensor(mode.offsets[first : first + rows_at_once], device=model.device)
        rows = [0] * len(changed) if mode.mask_rows is None else mode.mask_rows[first : first + rows_at_once]
        variant = torch.tensor(rows, device=model.device)
        ids = torch.where(columns == changed[:, None], others, tokens)
        mask = None if mode.mask is None else mode.mask[variant]
        with _as_states(model, head is not None):
            differences = torch.cat(list(_run(model, ids, mode, mask)), dim=1).sub_(base[variant])
        moved = differences.abs().amax(-1).nan_to_num(math.inf)
        visible = torch.ones_like(moved, dtype=torch.bool) if mask is None else mask.bool()
        earlier = torch.where(visible & (columns < changed[:, None]), moved, 0.0).flatten()
        most = earlier.topk(min(POSITIONS_AS_LOGITS, len(earlier))).indices
        of_logits = torch.where(earlier[most] > 0, sizes_as_logits(differences.flatten(0, 1)[most]), 0.0).max().item()
        largest = max(earlier.max().item(), of_logits)
        excess = max(excess, earlier.max().item() / scale, of_logits / scale_of_logits)
        if largest > leak:
            leak = largest
            row, position = divmod(int(most[0]), length)
            where = (int(changed[row]), position)
        in_row = torch.arange(len(changed), device=model.device)
        own = min(own, sizes_as_logits(differences[in_row, changed]).min().item())
        followed = changed + 1 < length
        if bool(followed.any()):
            after = differences[in_row[followed], changed[followed] + 1]
            memory = max(memory, sizes_as_logits(after).max().item())
    is_causal, has_power = excess <= EXACT, min(own, memory) >= POWER
    if not is_causal:
        detail = f"changing token {where[0]} changed the logits of the earlier position {where[1]} by {leak:.2g}"
    elif not has_power:
        detail = f"no power: a token changed its own logits by {own:.2g} and the next position's by {memory:.2g}"
    else:
        detail = f"no earlier logit moved over {len(mode.offsets)} changed positions of {length}"
    return Check(mode.name, is_causal and has_power, leak, min(own, memory), detail)


@torch.no_grad()
def check_padded_content(model: PreTrainedModel, generator: torch.Generator) -> Check:
    """Change what stands at padded positions; the same positions without a mask must matter."""
    name = "padded content"
    mask = _left_padding(SHORT_LENGTH, model.device)
    tokens = random_tokens(model, 1, SHORT_LENGTH, generator).expand(PADDINGS, -1)
    changed = torch.where(mask.bool(), tokens, other_tokens(model, tokens, generator))
    real = mask.bool()
    half = SHORT_LENGTH // 2
    leak, scale = 0.0, 1.0
    for pieces in (None, (half, *[1] * (SHORT_LENGTH - half))):
        mode = Mode(name, (), pieces=pieces)
        before = torch.cat(list(_run(model, tokens, mode, mask)), dim=1)
        after = torch.cat(list(_run(model, changed, mode, mask)), dim=1)
        leak = max(leak, finite((after - before)[real].abs().max().item()))
        scale = max(scale, before[real].abs().max().item())
    unmasked = (model(changed, use_cache=False).logits - model(tokens, use_cache=False).logits).abs().amax(-1)
    # Row 0 has no padding. In the others the first real token must feel an unmasked change before it.
    power = min(unmasked[row, row].item() for row in range(1, PADDINGS))
    if leak > EXACT * scale:
        detail = f"other tokens under the padding changed the logits of real ones by {leak:.2g}"
    elif power < POWER:
        detail = f"no power: without a mask the same change moves the next logits by {power:.2g} only"
    else:
        detail = "real tokens do not feel what stands under the padding"
    return Check(name, leak <= EXACT * scale and power >= POWER, leak, power, detail)
