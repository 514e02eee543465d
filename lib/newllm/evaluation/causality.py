"""The causality certificate: proof by probing that a model never sees a token that it has to predict.

Every check is made twice over. It looks for a change where there must be none (a leak), and for a change where there
must be one (its power): a model whose logits never move would pass any test for leaks.
"""

import functools
import math
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from transformers import PreTrainedModel

from newllm.evaluation.certificate import POWER, SHORT_LENGTH, Certificate, Check, few, finite
from newllm.evaluation.later_tokens import check_later_tokens, check_padded_content, modes
from newllm.evaluation.probing import (
    EXACT,
    other_tokens,
    period_of,
    probe_copy,
    probe_generator,
    random_tokens,
    untouched_randomness,
)
from newllm.progress import CERTIFICATE, stage

# Losses may be computed in float32 by design: enough to tell one shift from another, which differ by POWER_OF_LABELS.
LABEL_TOLERANCE = 1e-4
POWER_OF_LABELS = 1e-3
# Tokens that are differentiated at once.
TRAINED_AT_ONCE = 2**11


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
    length = probed_length(model, period)
    generator = probe_generator()
    ways = list(modes(probed, length))
    probes: list[Callable[[], Check]] = [
        *(functools.partial(check_later_tokens, probed, mode, length, generator) for mode in ways),
        lambda: check_padded_content(probed, generator),
        lambda: _check_gradient(probed, length, generator),
        lambda: _check_labels(probed, generator, training=False),
        lambda: _check_labels(probed, generator, training=True),
        lambda: _check_training_gradient(probed, length, generator),
    ]
    checks = []
    with untouched_randomness(probed.device), stage(CERTIFICATE, len(probes), "check") as told:
        for probe in probes:
            checks.append(probe())
            told.advance()
    of_logits = checks[: len(ways) + 1]
    return Certificate(all(check.passed for check in checks), max(check.change for check in of_logits), checks)


def probed_length(model: PreTrainedModel, period: int | None = None) -> int:
    """Return the tokens of the sequences that `certify` probes: two whole periods and the beginning of a third.

    Parameters
    ----------
    model, period
        As for `certify`.
    """
    return max(SHORT_LENGTH, 2 * (period_of(model) if period is None else period) + 2)


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
        if later.numel() and (finite(later.max().item()) > leak):
            leak, where = finite(later.max().item()), (last, last + 1 + int(later.argmax()))
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
        for last in few(range(length)):
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
    wrong = finite((found_losses - expected).abs().max().item())
    wrong = max(wrong, finite(abs(together.item() - expected.mean().item())))
    wrong = max(wrong, finite(abs(together.item() - unread.item())))
    leaked = max((finite((shown - logits).abs().max().item()) for shown in reported if shown is not None), default=0.0)
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
