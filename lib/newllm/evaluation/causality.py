"""The causality certificate: proof by probing that a model never sees a token that it has to predict.

Every check is made twice over. It looks for a change where there must be none (a leak), and for a change where there
must be one (its power): a model whose logits never move would pass any test for leaks.
"""

import functools
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor
from transformers import PreTrainedModel

from newllm.evaluation.certificate import SHORT_LENGTH, Certificate, Check, finite
from newllm.evaluation.input_gradients import check_gradient, check_training_gradient, only_label
from newllm.evaluation.later_tokens import check_later_tokens, check_padded_content
from newllm.evaluation.probing import (
    other_tokens,
    period_of,
    probe_copy,
    probe_generator,
    random_tokens,
    untouched_randomness,
)
from newllm.evaluation.ways import Way, ways_to_run
from newllm.progress import CERTIFICATE, stage

# Losses may be computed in float32 by design: enough to tell one shift from another, which differ by POWER_OF_LABELS.
LABEL_TOLERANCE = 1e-4
POWER_OF_LABELS = 1e-3


def certify(model: PreTrainedModel, *, period: int | None = None) -> Certificate:
    """Probe a model for every way of seeing the future that we know of.

    It runs on a float64 copy in eval mode (labels and their gradient also in training mode), with an own generator:
    neither the model nor the global random state changes. A copy of the weights in float64 must fit in memory.

    The checks:

    - changing one later token changes no earlier logit, at every offset of two periods: in a full pass, with an
      attention mask, with left padding, in chunked prefill, in both, and in token-by-token decoding. Where periods are
      long, a way that equals the full pass at every position, on random rows of tokens, is as causal as that pass is
      found to be, and has only some of its tokens changed; one that does not equal it has all of them changed. Where
      periods are of hundreds of tokens, decoding, which is given one token at a time, vouches so for the full pass;
    - what stands at padded positions changes nothing;
    - the gradient of a position reaches no later input;
    - labels are shifted exactly once and never leak into logits;
    - the gradient of a label's training loss reaches the token before it, and nothing from the label's position on;
      long periods as above, by the gradient of all labels' loss and that of the full pass.

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
    plain, *other_ways = ways_to_run(probed, length)
    checks: list[Check] = []

    def changed_in(way: Way) -> Check:
        return check_later_tokens(probed, way, length, generator, full_pass_is_causal=checks[0].passed)

    probes: list[Callable[[], Check]] = [
        lambda: check_later_tokens(probed, plain, length, generator),
        *(functools.partial(changed_in, way) for way in other_ways),
        lambda: check_padded_content(probed, generator),
        lambda: check_gradient(probed, length, generator),
        lambda: _check_labels(probed, generator, training=False),
        lambda: _check_labels(probed, generator, training=True),
        lambda: check_training_gradient(probed, length, generator, full_pass_is_causal=checks[0].passed),
    ]
    with untouched_randomness(probed.device), stage(CERTIFICATE, len(probes), "check") as told:
        for probe in probes:
            checks.append(probe())
            told.advance()
    of_logits = checks[: len(other_ways) + 2]
    return Certificate(all(check.passed for check in checks), max(check.change for check in of_logits), checks)


def probed_length(model: PreTrainedModel, period: int | None = None) -> int:
    """Return the tokens of the sequences that `certify` probes: two whole periods and the beginning of a third.

    Parameters
    ----------
    model, period
        As for `certify`.
    """
    return max(SHORT_LENGTH, 2 * (period_of(model) if period is None else period) + 2)


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
            output = model(tokens, labels=only_label(labels, position), use_cache=False)
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
