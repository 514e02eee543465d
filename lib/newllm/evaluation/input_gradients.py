"""Probes of causality that differentiate: what a position says, or the loss of its label, reaches no later input."""

import math
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel

from newllm.evaluation.certificate import POWER, Check, few, finite
from newllm.evaluation.later_tokens import MANY_OFFSETS
from newllm.evaluation.probing import EXACT, other_tokens, random_tokens
from newllm.models.loss import next_token_loss_from_logits

# Tokens that are differentiated at once.
TRAINED_AT_ONCE = 2**11
# Rows of labels whose training gradients are compared with those of the logits.
ROWS_OF_LABELS = 2


def only_label(labels: Tensor, position: int) -> Tensor:
    """Labels (1, T) of which one counts."""
    kept = torch.full_like(labels, -100)
    kept[:, position] = labels[:, position]
    return kept


def _input_gradients(
    model: PreTrainedModel, tokens: Tensor, scores: Callable[[], Iterable[Tensor]]
) -> Iterator[Tensor]:
    """Yield the gradient (B, T, E) at the embeddings of tokens (B, T) of each scalar score."""
    captured: list[Tensor] = []

    def capture(module: torch.nn.Module, arguments: Any, output: Tensor) -> Tensor:
        free = output.detach().requires_grad_()
        captured.append(free)
        return free

    handle = model.get_input_embeddings().register_forward_hook(capture)
    try:
        with torch.enable_grad():
            for score in scores():
                if not captured or any(inputs.shape[:-1] != tokens.shape for inputs in captured):
                    raise ValueError(f"{type(model).__name__} does not call its input embedding on all tokens at once")
                gradients: tuple[Tensor | None, ...] = ()
                if score.requires_grad:
                    gradients = torch.autograd.grad(score, captured, retain_graph=True, allow_unused=True)
                yield sum((each for each in gradients if each is not None), torch.zeros_like(captured[0]))
    finally:
        handle.remove()


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


def check_gradient(model: PreTrainedModel, length: int, generator: torch.Generator) -> Check:
    """Differentiate all logits up to a position, randomly weighted, with respect to every input embedding."""
    tokens = random_tokens(model, 1, length, generator)
    positions = few(range(length))

    def scores() -> Iterator[Tensor]:
        logits = model(tokens, use_cache=False).logits[0]
        weights = torch.randn(logits.shape[-1], generator=generator, dtype=torch.float64).to(logits)
        signs = (torch.rand(length, generator=generator) + 0.5).to(logits)
        weighted = (logits @ weights) * signs
        for last in positions:
            yield weighted[: last + 1].sum()

    sizes = [gradient[0].abs().amax(-1) for gradient in _input_gradients(model, tokens, scores)]
    return _gradient_check("gradient", list(zip(positions, sizes, strict=True)))


def trains_as_it_scores(model: PreTrainedModel, length: int, generator: torch.Generator) -> bool:
    """Compare the gradient of the training loss of all labels with that of the logits' cross-entropy in evaluation.

    Where they are equal at every input, the loss in training reaches what those logits reach: what a later input added
    to the loss of a label would have to be in both sums, or drop out of one to the last digit.
    """
    tokens = random_tokens(model, ROWS_OF_LABELS, length, generator)
    labels = random_tokens(model, ROWS_OF_LABELS, length, generator)
    count = ROWS_OF_LABELS * (length - 1)

    def training_loss() -> Iterator[Tensor]:
        yield model(tokens, labels=labels, use_cache=False).loss * count

    def loss_of_logits() -> Iterator[Tensor]:
        yield next_token_loss_from_logits(model(tokens, use_cache=False).logits, labels) * count

    (of_logits,) = _input_gradients(model, tokens, loss_of_logits)
    model.train()
    try:
        (of_training,) = _input_gradients(model, tokens, training_loss)
    finally:
        model.eval()
    difference = finite((of_training - of_logits).abs().max().item())
    return difference <= EXACT * max(1.0, of_logits.abs().max().item())


def check_training_gradient(
    model: PreTrainedModel, length: int, generator: torch.Generator, *, full_pass_is_causal: bool = False
) -> Check:
    """Differentiate each label's training loss: it may reach inputs before the label only, and must reach the last.

    Parameters
    ----------
    model, generator
        What is probed, and what draws its tokens.
    length
        Tokens of a sequence.
    full_pass_is_causal
        The logits of a plain pass in evaluation passed, at every offset: where the training loss of all labels has the
        gradient of theirs, only a few of many labels are differentiated one by one.
    """
    is_as_scored = full_pass_is_causal and length > MANY_OFFSETS and trains_as_it_scores(model, length, generator)
    tokens = random_tokens(model, 1, length, generator)
    labels = other_tokens(model, tokens, generator)
    places = few(range(1, length)) if is_as_scored else list(range(1, length))
    sizes: list[tuple[int, Tensor]] = []
    rows_at_once = max(1, TRAINED_AT_ONCE // length)
    model.train()
    try:
        for first in range(0, len(places), rows_at_once):
            # One label a row, so that one pass differentiates many.
            of_rows = places[first : first + rows_at_once]
            rows = tokens.expand(len(of_rows), -1)
            one_each = torch.cat([only_label(labels, place) for place in of_rows])

            def score(rows: Tensor = rows, one_each: Tensor = one_each) -> Iterator[Tensor]:
                yield model(rows, labels=one_each, use_cache=False).loss * len(rows)

            (gradient,) = _input_gradients(model, rows, score)
            sizes += [(place - 1, size) for place, size in zip(of_rows, gradient.abs().amax(-1), strict=True)]
    finally:
        model.eval()
    check = _gradient_check("training gradient", sizes)
    if is_as_scored and check.passed:
        return replace(check, detail=f"{check.detail}; that of all labels together is that of the full pass")
    return check
