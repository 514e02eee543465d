"""Probes of causality that change a token: nothing before it may move, and what it stands for must."""

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import PreTrainedModel

from newllm.evaluation.certificate import POWER, SHORT_LENGTH, Check, finite
from newllm.evaluation.probing import EXACT, other_tokens, random_tokens
from newllm.evaluation.ways import FULL_PASS, PADDINGS, Way, left_padding, run
from newllm.models.language_model import LanguageModel

# Values of float64 outputs held at once: logits, 128 MB; states, of which blocks hold many times as much, 16 MB.
PROBED_LOGITS_AT_ONCE = 2**24
PROBED_STATES_AT_ONCE = 2**21
# Positions whose states moved most, of each batch of probes, that are turned into logits.
POSITIONS_AS_LOGITS = 32
# From so many changed positions on, comparing with the full pass costs less than changing them all.
MANY_OFFSETS = 24
# And from so many on with decoding, which gives each of them anew: changing each would cost their cube, days where a
# way of remembering repeats after thousands of tokens. What is published has fewer, and all of them changed.
MANY_OFFSETS_OF_FULL_PASS = 512


@dataclass(frozen=True)
class _Unchanged:
    """What a model gives for tokens as they are, run one way, and what is to be compared of it.

    Attributes
    ----------
    tokens, others
        Token ids (1, T), and as many that each differ.
    head
        The linear head that makes the logits; None where logits are anything else, at any of these tokens.
    outputs
        What enters that head, or the logits themselves: (rows of the mask, T, width).
    scale, scale_of_logits
        Largest of the outputs and of the logits, at least 1.
    """

    tokens: Tensor
    others: Tensor
    head: nn.Linear | None
    outputs: Tensor
    scale: float
    scale_of_logits: float

    @property
    def rows_at_once(self) -> int:
        """Rows of as many tokens whose outputs are held at once."""
        most = PROBED_LOGITS_AT_ONCE if self.head is None else PROBED_STATES_AT_ONCE
        return max(1, most // self.outputs[0].numel())

    def sizes_as_logits(self, differences: Tensor) -> Tensor:
        """Largest change of a logit (N,) by differences of outputs (N, width)."""
        of_logits = differences if self.head is None else F.linear(differences, self.head.weight)
        return of_logits.abs().amax(-1).nan_to_num(math.inf)


def _run_unchanged(model: PreTrainedModel, way: Way, length: int, generator: torch.Generator) -> _Unchanged:
    """Draw tokens, run them one way, and find out whether their logits are a linear map of states."""
    tokens = random_tokens(model, 1, length if way.mask is None else way.mask.shape[1], generator)
    others = other_tokens(model, tokens, generator)
    rows = tokens.expand(1 if way.mask is None else way.mask.shape[0], -1)
    outputs = run(model, rows, way, way.mask)
    scale = scale_of_logits = max(1.0, outputs.abs().max().item())
    head = model.get_output_embeddings() if isinstance(model, LanguageModel) else None
    if type(head) is not nn.Linear or head.in_features >= head.out_features:
        return _Unchanged(tokens, others, None, outputs, scale, scale_of_logits)
    states = run(model, rows, way, way.mask, as_states=True)
    if not finite((head(states) - outputs).abs().max().item()) <= EXACT * scale_of_logits:
        return _Unchanged(tokens, others, None, outputs, scale, scale_of_logits)
    return _Unchanged(tokens, others, head, states, max(1.0, states.abs().max().item()), scale_of_logits)


@torch.no_grad()
def equals_full_pass(
    model: PreTrainedModel, way: Way, length: int, generator: torch.Generator, *, as_states: bool, rows_at_once: int
) -> bool:
    """Compare one way to run tokens with the plain one, at every position of a few random rows of them.

    A way that gives what a causal function gives, whatever the tokens, is as causal: what a later token added would
    have to be there in the plain pass too. Each row draws all of its tokens anew, so that a dependence on a later token
    stays unseen only where none of the rows' tokens shows it; changing one token shows it by two tokens.

    Parameters
    ----------
    model, way, length, generator
        As for `check_later_tokens`.
    as_states
        Compare what enters the head instead of the logits.
    rows_at_once
        How many rows are run together.
    """
    total = length if way.mask is None else way.mask.shape[1]
    every_token = random_tokens(model, PADDINGS, total, generator)
    masks = None if way.mask is None else way.mask.expand(PADDINGS, -1)
    columns = torch.arange(total, device=model.device)
    for first in range(0, PADDINGS, rows_at_once):
        tokens = every_token[first : first + rows_at_once]
        mask = None if masks is None else masks[first : first + rows_at_once]
        padding = torch.zeros_like(tokens[:, :1]) if mask is None else (mask == 0).sum(1, keepdim=True)
        # The plain pass has no padding: a row begins with its first real token, and what goes beyond is not compared.
        columns_of = (columns + padding) % total
        expected = run(model, tokens.gather(1, columns_of), FULL_PASS, None, as_states=as_states)
        found = run(model, tokens, way, mask, as_states=as_states)
        found = found.gather(1, columns_of[..., None].expand_as(found))
        difference = (found - expected).abs().amax(-1)[columns < total - padding]
        if not finite(difference.max().item()) <= EXACT * max(1.0, expected.abs().max().item()):
            return False
    return True


@torch.no_grad()
def check_later_tokens(
    model: PreTrainedModel,
    way: Way,
    length: int,
    generator: torch.Generator,
    *,
    full_pass_is_causal: bool = False,
) -> Check:
    """Change one token a row; nothing before it may move, it and some token after it must.

    The plain way of more than `MANY_OFFSETS_OF_FULL_PASS` tokens is compared with decoding instead: each row draws
    all of its tokens anew, so a position that sees a later token shows it there too, see `equals_full_pass`.

    Where the logits of the unchanged tokens are a linear map of states, states are compared in their place, which costs
    a fraction; what moved most of them is turned into logits too.

    Parameters
    ----------
    model, generator
        What is probed, and what draws its tokens.
    way
        How tokens are run, and which are changed.
    length
        Tokens of a sequence, padding not counted.
    full_pass_is_causal
        The plain way passed, at every offset: where this way equals it, only a few of many tokens are changed. All
        others are changed, each under every padding.
    """
    unchanged = _run_unchanged(model, way, length, generator)
    compared: Way | None = None
    if full_pass_is_causal and len(way.offsets) >= MANY_OFFSETS:
        compared = way
    elif way.is_plain and len(way.offsets) >= MANY_OFFSETS_OF_FULL_PASS:
        # Decoding cannot see a later token, which it was not given yet: a full pass that equals it does not either.
        compared = Way("token-by-token decoding", pieces=[1] * length)
    as_states, at_once = unchanged.head is not None, unchanged.rows_at_once
    is_vouched_for = compared is not None and equals_full_pass(
        model, compared, length, generator, as_states=as_states, rows_at_once=at_once
    )
    # Where nothing else vouches for a way, what it does has to be found in it alone, wherever it pads.
    way = way.at_few_offsets() if is_vouched_for else way.under_every_padding()
    length = unchanged.tokens.shape[1]
    columns = torch.arange(length, device=model.device)
    leak, excess, where, own, memory = 0.0, 0.0, (0, 0), math.inf, 0.0
    rows_at_once = unchanged.rows_at_once
    for first in range(0, len(way.offsets), rows_at_once):
        changed = torch.tensor(way.offsets[first : first + rows_at_once], device=model.device)
        rows = [0] * len(changed) if way.mask_rows is None else way.mask_rows[first : first + rows_at_once]
        variant = torch.tensor(rows, device=model.device)
        ids = torch.where(columns == changed[:, None], unchanged.others, unchanged.tokens)
        mask = None if way.mask is None else way.mask[variant]
        differences = run(model, ids, way, mask, as_states=unchanged.head is not None).sub_(unchanged.outputs[variant])
        moved = differences.abs().amax(-1).nan_to_num(math.inf)
        visible = torch.ones_like(moved, dtype=torch.bool) if mask is None else mask.bool()
        earlier = torch.where(visible & (columns < changed[:, None]), moved, 0.0).flatten()
        most = earlier.topk(min(POSITIONS_AS_LOGITS, len(earlier))).indices
        of_logits = unchanged.sizes_as_logits(differences.flatten(0, 1)[most])
        largest_of_logits = torch.where(earlier[most] > 0, of_logits, 0.0).max().item()
        largest = max(earlier.max().item(), largest_of_logits)
        excess = max(excess, earlier.max().item() / unchanged.scale, largest_of_logits / unchanged.scale_of_logits)
        if largest > leak:
            leak = largest
            row, position = divmod(int(most[0]), length)
            where = (int(changed[row]), position)
        in_row = torch.arange(len(changed), device=model.device)
        own = min(own, unchanged.sizes_as_logits(differences[in_row, changed]).min().item())
        followed = changed + 1 < length
        if bool(followed.any()):
            after = differences[in_row[followed], changed[followed] + 1]
            memory = max(memory, unchanged.sizes_as_logits(after).max().item())
    is_causal, has_power = excess <= EXACT, min(own, memory) >= POWER
    if not is_causal:
        detail = f"changing token {where[0]} changed the logits of the earlier position {where[1]} by {leak:.2g}"
    elif not has_power:
        detail = f"no power: a token changed its own logits by {own:.2g} and the next position's by {memory:.2g}"
    else:
        detail = f"no earlier logit moved over {len(way.offsets)} changed positions of {length}"
        detail += f", and every position is as in {'decoding' if way.is_plain else 'the full pass'}" * is_vouched_for
    return Check(way.name, is_causal and has_power, leak, min(own, memory), detail)


@torch.no_grad()
def check_padded_content(model: PreTrainedModel, generator: torch.Generator) -> Check:
    """Change what stands at padded positions; the same positions without a mask must matter."""
    name = "padded content"
    mask = left_padding(SHORT_LENGTH, model.device)
    tokens = random_tokens(model, 1, SHORT_LENGTH, generator).expand(PADDINGS, -1)
    changed = torch.where(mask.bool(), tokens, other_tokens(model, tokens, generator))
    real = mask.bool()
    half = SHORT_LENGTH // 2
    leak, scale = 0.0, 1.0
    for pieces in (None, (half, *[1] * (SHORT_LENGTH - half))):
        way = Way(name, (), pieces=pieces)
        before = run(model, tokens, way, mask)
        after = run(model, changed, way, mask)
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
