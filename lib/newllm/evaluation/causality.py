"""The causality certificate: proof by probing that a model never sees a token that it has to predict.

Every check is made twice over. It looks for a change where there must be none (a leak), and for a change where there
must be one (its power): a model whose logits never move would pass any test for leaks.
"""

import functools
import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import pandas as pd
import torch
import torch.nn.functional as F
from torch import Tensor
from transformers import PreTrainedModel

from newllm.evaluation.probing import (
    EXACT,
    forward_in_pieces,
    other_tokens,
    period_of,
    positions_of,
    probe_copy,
    probe_generator,
    random_tokens,
    untouched_randomness,
)

# A dependence smaller than this is no proof that a probe can see anything.
POWER = 1e-6
# Losses may be computed in float32 by design: enough to tell one shift from another, which differ by POWER_OF_LABELS.
LABEL_TOLERANCE = 1e-4
POWER_OF_LABELS = 1e-3
SHORT_LENGTH = 12
PADDINGS = 4
# float64 logits held at once: 128 MB.
LOGITS_AT_ONCE = 2**24
# Tokens that are differentiated at once.
TRAINED_AT_ONCE = 2**11


@dataclass(frozen=True)
class Check:
    """One probe.

    Attributes
    ----------
    name
        What was probed.
    passed
        No leak, and power to have seen one.
    change
        Largest change where none may be.
    power
        Change where there must be one, the smallest that counts.
    detail
        What happened, in words.
    """

    name: str
    passed: bool
    change: float
    power: float
    detail: str


@dataclass(frozen=True)
class Certificate:
    """What `certify` found; a result is recorded only where it ``passed``.

    Attributes
    ----------
    passed
        Whether every check passed.
    max_change
        Largest change of a logit that had to stay as it was; rounding, of about 1e-15, where no token leaks.
    checks
        The checks, each with its own verdict.
    """

    passed: bool
    max_change: float
    checks: list[Check]

    def table(self) -> pd.DataFrame:
        """Return one row a check."""
        return pd.DataFrame([asdict(check) for check in self.checks])

    def as_dict(self) -> dict[str, Any]:
        """Return plain JSON types, for a result record."""
        return asdict(self)

    def failures(self) -> list[str]:
        """Return "name: detail" of each check that failed."""
        return [f"{check.name}: {check.detail}" for check in self.checks if not check.passed]


@dataclass(frozen=True)
class _Mode:
    """One way to run the same tokens: with a mask or not, padded or not, through the cache in pieces or at once."""

    name: str
    # Columns to change, and for each of them the row of the mask under which it is changed.
    offsets: Sequence[int]
    pieces: Sequence[int] | None = None
    mask: Tensor | None = None
    mask_rows: Sequence[int] | None = None


def certify(model: PreTrainedModel, *, period: int | None = None) -> Certificate:
    """Probe a model for every way of seeing the future that we know of.

    It runs on a float64 copy in eval mode (labels and their gradient also in training mode), with an own generator:
    neither the model nor the global random state changes. A copy of the weights in float64 must fit in memory.

    The checks:

    - changing one later token changes no earlier logit, at every offset of two periods: in a full pass, with an
      attention mask, with left padding, in chunked prefill, in both, and in token-by-token decoding;
    - what stands at padded positions changes nothing;
    - the gradient of a position reaches no later input;
    - labels are shifted exactly once and never leak into logits;
    - the gradient of a label's training loss reaches the token before it, and nothing from the label's position on.

    Parameters
    ----------
    model
        Any causal language model of transformers' kind, with a vocabulary of two tokens or more.
    period
        Tokens after which its way of remembering repeats; where omitted, what a model of this package declares, and 1
        for any other.

    Returns
    -------
    Certificate
        Passed or not, with each check.
    """
    probed = probe_copy(model)
    # Two whole periods and the beginning of a third.
    length = max(SHORT_LENGTH, 2 * (period_of(model) if period is None else period) + 2)
    generator = probe_generator()
    with untouched_randomness(probed.device):
        of_logits = [
            *(_check_later_tokens(probed, mode, length, generator) for mode in _modes(probed, length)),
            _check_padded_content(probed, generator),
        ]
        checks = [
            *of_logits,
            _check_gradient(probed, length, generator),
            _check_labels(probed, generator, training=False),
            _check_labels(probed, generator, training=True),
            _check_training_gradient(probed, length, generator),
        ]
    return Certificate(all(check.passed for check in checks), max(check.change for check in of_logits), checks)


def _few(offsets: Sequence[int]) -> list[int]:
    """Return at most a dozen of them, both ends among them."""
    stride = max(1, math.ceil(len(offsets) / SHORT_LENGTH))
    return sorted({*offsets[::stride], offsets[-1]})


def _modes(model: PreTrainedModel, length: int) -> Iterator[_Mode]:
    offsets = range(1, length)
    half = length // 2
    yield _Mode("full pass", offsets)
    yield _Mode("attention mask", offsets, mask=torch.ones(1, length, dtype=torch.long, device=model.device))
    padded = length + PADDINGS - 1
    padding = _left_padding(padded, model.device)
    # Each offset, padding not counted, under one of the paddings.
    mask_rows = [offset % PADDINGS for offset in offsets]
    padded_offsets = [offset + row for offset, row in zip(offsets, mask_rows, strict=True)]
    yield _Mode("left padding", padded_offsets, mask=padding, mask_rows=mask_rows)
    # The last piece spans more than a period, so that a leak inside it shows at every offset.
    yield _Mode("chunked prefill", offsets, pieces=(2, 1, length // 4, length - length // 4 - 3))
    yield _Mode(
        "chunked prefill, left padding",
        padded_offsets,
        pieces=(2, 3, length // 4, padded - length // 4 - 5),
        mask=padding,
        mask_rows=mask_rows,
    )
    yield _Mode("token-by-token decoding", _few(offsets), pieces=(half, *[1] * (length - half)))


def _left_padding(length: int, device: torch.device) -> Tensor:
    """Masks (PADDINGS, length): row i is padded by i tokens."""
    columns = torch.arange(length, device=device)
    return (columns >= torch.arange(PADDINGS, device=device)[:, None]).long()


def _run(model: PreTrainedModel, ids: Tensor, mode: _Mode, mask: Tensor | None) -> Iterator[tuple[int, Tensor]]:
    """Yield where each piece begins and its logits."""
    if mode.pieces is not None:
        for part, logits, _ in forward_in_pieces(model, ids, mode.pieces, mask):
            yield part.start, logits
    elif mask is None:
        yield 0, model(ids, use_cache=False).logits
    else:
        yield 0, model(ids, attention_mask=mask, position_ids=positions_of(mask), use_cache=False).logits


@torch.no_grad()
def _check_later_tokens(model: PreTrainedModel, mode: _Mode, length: int, generator: torch.Generator) -> Check:
    """Change one token a row; nothing before it may move, it and some token after it must."""
    length = length if mode.mask is None else mode.mask.shape[1]
    tokens = random_tokens(model, 1, length, generator)
    others = other_tokens(model, tokens, generator)
    variants = 1 if mode.mask is None else mode.mask.shape[0]
    base = list(_run(model, tokens.expand(variants, -1), mode, mode.mask))
    scale = max(1.0, max(logits.abs().max().item() for _, logits in base))
    columns = torch.arange(length, device=model.device)

    leak, where, own, memory = 0.0, (0, 0), math.inf, 0.0
    widest = max(logits.shape[1] * logits.shape[2] for _, logits in base)
    rows_at_once = max(1, LOGITS_AT_ONCE // widest)
    for first in range(0, len(mode.offsets), rows_at_once):
        changed = torch.tensor(mode.offsets[first : first + rows_at_once], device=model.device)
        rows = [0] * len(changed) if mode.mask_rows is None else mode.mask_rows[first : first + rows_at_once]
        variant = torch.tensor(rows, device=model.device)
        ids = torch.where(columns == changed[:, None], others, tokens)
        mask = None if mode.mask is None else mode.mask[variant]
        moved = torch.cat(
            [
                (logits - base[piece][1][variant]).abs().amax(-1)
                for piece, (_, logits) in enumerate(_run(model, ids, mode, mask))
            ],
            dim=1,
        ).nan_to_num(math.inf)
        visible = torch.ones_like(moved, dtype=torch.bool) if mask is None else mask.bool()
        earlier = torch.where(visible & (columns < changed[:, None]), moved, 0.0)
        if earlier.max().item() > leak:
            leak = earlier.max().item()
            row, position = divmod(int(earlier.argmax()), length)
            where = (int(changed[row]), position)
        own = min(own, moved.gather(1, changed[:, None]).min().item())
        memory = max(memory, torch.where(columns == changed[:, None] + 1, moved, 0.0).max().item())
    if leak > EXACT * scale:
        detail = f"changing token {where[0]} changed the logits of the earlier position {where[1]} by {leak:.2g}"
    elif min(own, memory) < POWER:
        detail = f"no power: a token changed its own logits by {own:.2g} and the next position's by {memory:.2g}"
    else:
        detail = f"no earlier logit moved over {len(mode.offsets)} changed positions of {length}"
    passed = leak <= EXACT * scale and min(own, memory) >= POWER
    return Check(mode.name, passed, leak, min(own, memory), detail)


def _finite(value: float) -> float:
    """Return the value, NaN as infinity: NaN would compare as no change."""
    return math.inf if math.isnan(value) else value


@torch.no_grad()
def _check_padded_content(model: PreTrainedModel, generator: torch.Generator) -> Check:
    """Change what stands at padded positions; the same positions without a mask must matter."""
    name = "padded content"
    mask = _left_padding(SHORT_LENGTH, model.device)
    tokens = random_tokens(model, 1, SHORT_LENGTH, generator).expand(PADDINGS, -1)
    changed = torch.where(mask.bool(), tokens, other_tokens(model, tokens, generator))
    real = mask.bool()
    half = SHORT_LENGTH // 2
    leak, scale = 0.0, 1.0
    for pieces in (None, (half, *[1] * (SHORT_LENGTH - half))):
        mode = _Mode(name, (), pieces=pieces)
        before = torch.cat([logits for _, logits in _run(model, tokens, mode, mask)], dim=1)
        after = torch.cat([logits for _, logits in _run(model, changed, mode, mask)], dim=1)
        leak = max(leak, _finite((after - before)[real].abs().max().item()))
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


def _input_gradients(
    model: PreTrainedModel, tokens: Tensor, scores: Callable[[], Iterable[tuple[int, Tensor]]]
) -> list[tuple[int, Tensor]]:
    """Gradient size at each input position, (B, T), for each (position, scalar score)."""
    captured: list[Tensor] = []

    def capture(module: torch.nn.Module, arguments: Any, output: Tensor) -> Tensor:
        free = output.detach().requires_grad_()
        captured.append(free)
        return free

    handle = model.get_input_embeddings().register_forward_hook(capture)
    sizes = []
    try:
        with torch.enable_grad():
            for position, score in scores():
                if not captured or any(inputs.shape[:-1] != tokens.shape for inputs in captured):
                    raise ValueError(f"{type(model).__name__} does not call its input embedding on all tokens at once")
                size = torch.zeros(tokens.shape, device=tokens.device, dtype=torch.float64)
                if score.requires_grad:
                    for gradient in torch.autograd.grad(score, captured, retain_graph=True, allow_unused=True):
                        if gradient is not None:
                            size += gradient.abs().amax(-1)
                sizes.append((position, size))
    finally:
        handle.remove()
    return sizes


def _gradient_check(name: str, sizes: list[tuple[int, Tensor]]) -> Check:
    """For (last position that may be seen, gradient sizes): none after it, some at it."""
    scale = max(1.0, max(size.max().item() for _, size in sizes))
    leak, power, where = 0.0, math.inf, (0, 0)
    for last, size in sizes:
        later = size[last + 1 :]
        if later.numel() and (_finite(later.max().item()) > leak):
            leak, where = _finite(later.max().item()), (last, last + 1 + int(later.argmax()))
        power = min(power, size[last].item())
    if leak > EXACT * scale:
        detail = f"the prediction after position {where[0]} has a gradient of {leak:.2g} at the later input {where[1]}"
    elif not power >= POWER:
        detail = f"no power: a position's gradient at its own input is {power:.2g} only"
    else:
        detail = f"gradients of {len(sizes)} positions reach their own input and no later one"
    return Check(name, leak <= EXACT * scale and power >= POWER, leak, power, detail)


def _check_gradient(model: PreTrainedModel, length: int, generator: torch.Generator) -> Check:
    """Differentiate all logits up to a position, randomly weighted, with respect to every input embedding."""
    tokens = random_tokens(model, 1, length, generator)

    def scores() -> Iterator[tuple[int, Tensor]]:
        logits = model(tokens, use_cache=False).logits[0]
        weights = torch.randn(logits.shape[-1], generator=generator, dtype=torch.float64).to(logits)
        signs = (torch.rand(length, generator=generator) + 0.5).to(logits)
        weighted = (logits @ weights) * signs
        for last in _few(range(length)):
            yield last, weighted[: last + 1].sum()

    sizes = _input_gradients(model, tokens, scores)
    return _gradient_check("gradient", [(last, size[0]) for last, size in sizes])


def _only(labels: Tensor, position: int) -> Tensor:
    """Labels (1, T) of which one counts."""
    kept = torch.full_like(labels, -100)
    kept[:, position] = labels[:, position]
    return kept


@torch.no_grad()
def _check_labels(model: PreTrainedModel, generator: torch.Generator, *, training: bool) -> Check:
    """Compare the model's loss of one label at a time with the logits that may predict it."""
    name = "labels in training" if training else "labels in evaluation"
    tokens = random_tokens(model, 1, SHORT_LENGTH, generator)
    labels = other_tokens(model, tokens, generator)
    logits = model(tokens, use_cache=False).logits
    # [i, j]: loss of label j by the logits of position i.
    losses = -F.log_softmax(logits[0], dim=-1)[:, labels[0]]
    expected = losses.diagonal(offset=1)
    power = (expected - losses.diagonal()[1:]).abs().max().item()

    model.train(training)
    try:
        found, reported = [], []
        for position in range(1, SHORT_LENGTH):
            output = model(tokens, labels=_only(labels, position), use_cache=False)
            found.append(output.loss)
            reported.append(output.logits)
        together = model(tokens, labels=labels, use_cache=False).loss
        first_changed = labels.clone()
        first_changed[:, 0] = other_tokens(model, labels[:, 0], generator)
        unread = model(tokens, labels=first_changed, use_cache=False).loss
    finally:
        model.eval()
    found_losses = torch.stack(found).to(expected)
    wrong = _finite((found_losses - expected).abs().max().item())
    wrong = max(wrong, _finite(abs(together.item() - expected.mean().item())))
    wrong = max(wrong, _finite(abs(together.item() - unread.item())))
    leaked = max((_finite((shown - logits).abs().max().item()) for shown in reported if shown is not None), default=0.0)
    change = max(wrong, leaked)
    if leaked > LABEL_TOLERANCE:
        detail = f"the logits change by {leaked:.2g} when labels are given"
    elif wrong > LABEL_TOLERANCE:
        detail = f"the loss of a label is off by {wrong:.2g}: {_wrong_shift(found_losses, losses)}"
    elif power < POWER_OF_LABELS:
        detail = f"no power: another shift of the labels would change the loss by {power:.2g} only"
    else:
        detail = "labels are shifted exactly once"
    return Check(name, change <= LABEL_TOLERANCE and power >= POWER_OF_LABELS, change, power, detail)


def _wrong_shift(found: Tensor, losses: Tensor) -> str:
    """Name the shift that explains the losses of labels 1 to T - 1, from losses (T, T) of label j at position i."""
    for shift, verdict in ((0, "labels are not shifted"), (2, "labels are shifted twice")):
        explained = losses.diagonal(offset=shift)[-(SHORT_LENGTH - 2) :]
        if torch.allclose(found[-len(explained) :], explained, atol=LABEL_TOLERANCE):
            return verdict
    return "it is not the cross-entropy of the position before the label"


def _check_training_gradient(model: PreTrainedModel, length: int, generator: torch.Generator) -> Check:
    """Differentiate each label's training loss: it may reach inputs before the label only, and must reach the last."""
    tokens = random_tokens(model, 1, length, generator)
    labels = other_tokens(model, tokens, generator)

    def score(positions: range) -> Iterator[tuple[int, Tensor]]:
        # One label a row, so that one pass differentiates many.
        rows, one_each = tokens.expand(len(positions), -1), torch.cat([_only(labels, place) for place in positions])
        yield 0, model(rows, labels=one_each, use_cache=False).loss * len(positions)

    sizes: list[tuple[int, Tensor]] = []
    rows_at_once = max(1, TRAINED_AT_ONCE // length)
    model.train()
    try:
        for first in range(1, length, rows_at_once):
            positions = range(first, min(first + rows_at_once, length))
            rows = tokens.expand(len(positions), -1)
            ((_, of_rows),) = _input_gradients(model, rows, functools.partial(score, positions))
            sizes += [(place - 1, size) for place, size in zip(positions, of_rows, strict=True)]
    finally:
        model.eval()
    return _gradient_check("training gradient", sizes)
