"""Next-token loss from hidden states, without ever holding the (tokens x vocabulary) logits."""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

IGNORED_LABEL = -100
# Tokens whose logits exist at once: at a vocabulary of 50,304 in float32, 100 MB.
CHUNK_TOKENS = 512


class _LinearCrossEntropy(torch.autograd.Function):
    """Forward computes the gradients too, chunk by chunk, while each chunk's logits are at hand."""

    @staticmethod
    def forward(ctx: Any, hidden: Tensor, weight: Tensor, targets: Tensor, count: Tensor) -> Tensor:
        counted = (targets != IGNORED_LABEL)[:, None]
        known = torch.where(counted, targets[:, None], 0)
        total = hidden.new_zeros((), dtype=torch.promote_types(hidden.dtype, torch.float32))
        # What each token is worth in the mean: nothing where it does not count.
        share = counted.to(total.dtype) / count
        minus_one = torch.full_like(known, -1, dtype=total.dtype)
        grad_hidden = torch.empty_like(hidden) if ctx.needs_input_grad[0] else None
        # Sums over chunks are of float32 at least: in bfloat16 each further chunk would be rounded into the sum.
        grad_weight = torch.zeros_like(weight, dtype=total.dtype) if ctx.needs_input_grad[1] else None
        for start in range(0, hidden.shape[0], CHUNK_TOKENS):
            rows = slice(start, start + CHUNK_TOKENS)
            scores = torch.log_softmax(hidden[rows] @ weight.T, -1, dtype=total.dtype)
            total -= torch.where(counted[rows], scores.gather(1, known[rows]), 0).sum()
            if grad_hidden is None and grad_weight is None:
                continue
            # d loss of a token / d its logits = softmax - one-hot.
            error = scores.exp_().scatter_add_(1, known[rows], minus_one[rows]).to(hidden.dtype)
            # The share is multiplied where it costs least: into rows of the width of hidden states.
            if grad_hidden is not None:
                grad_hidden[rows] = (error @ weight).mul_(share[rows])
            if grad_weight is not None:
                worth = (hidden[rows] * share[rows]).to(hidden.dtype)
                if worth.dtype == grad_weight.dtype:
                    grad_weight.addmm_(error.T, worth)
                else:
                    grad_weight += error.T @ worth
        if grad_weight is not None:
            grad_weight = grad_weight.to(weight.dtype)
        ctx.save_for_backward(*(grad for grad in (grad_hidden, grad_weight) if grad is not None))
        return total / count

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Tensor) -> tuple[Tensor | None, Tensor | None, None, None]:
        saved = iter(ctx.saved_tensors)
        scaled = [next(saved) * grad_outputs[0] if needed else None for needed in ctx.needs_input_grad[:2]]
        return scaled[0], scaled[1], None, None


def linear_cross_entropy(
    hidden: Tensor, weight: Tensor, targets: Tensor, num_items: Tensor | int | None = None
) -> Tensor:
    """Mean cross-entropy of ``softmax(hidden @ weight.T)``, equal to the plain computation.

    Parameters
    ----------
    hidden
        Hidden states (N, d).
    weight
        Output embedding (V, d).
    targets
        Token ids (N,); rows with -100 do not count.
    num_items
        Divide the sum by this number instead of by that of the counted tokens: where several calls share one step of
        training, it is what all of them count.

    Returns
    -------
    Tensor
        Mean loss in nats per counted token; 0 where none counts. The (N, V) logits are never held at once.
    """
    counted = targets != IGNORED_LABEL
    items = counted.sum() if num_items is None else torch.as_tensor(num_items, device=hidden.device)
    count = items.clamp(min=1).to(torch.promote_types(hidden.dtype, torch.float32))
    # Rows that do not count are worth leaving out, but a graph cannot ask whether there are any.
    if not torch.compiler.is_compiling() and not bool(counted.all()):
        hidden, targets = hidden[counted], targets[counted]
    if torch.is_autocast_enabled(hidden.device.type):
        dtype = torch.get_autocast_dtype(hidden.device.type)
        hidden, weight = hidden.to(dtype), weight.to(dtype)
        with torch.autocast(hidden.device.type, enabled=False):
            return _LinearCrossEntropy.apply(hidden, weight, targets, count)
    return _LinearCrossEntropy.apply(hidden, weight, targets, count)


def next_token_loss(hidden: Tensor, weight: Tensor, labels: Tensor, num_items: Tensor | int | None = None) -> Tensor:
    """Shift once and score: hidden state i (B, T, d) predicts label i + 1 of (B, T); the mean over ``num_items``."""
    return linear_cross_entropy(hidden[:, :-1].flatten(0, 1), weight, labels[:, 1:].flatten(), num_items)


def next_token_loss_from_logits(logits: Tensor, labels: Tensor, num_items: Tensor | int | None = None) -> Tensor:
    """Plain reference of `next_token_loss`, from logits (B, T, V) that exist anyway."""
    flat = logits[:, :-1].flatten(0, 1)
    targets = labels[:, 1:].flatten()
    total = F.cross_entropy(flat.float() if flat.dtype != torch.float64 else flat, targets, reduction="sum")
    count = (targets != IGNORED_LABEL).sum() if num_items is None else torch.as_tensor(num_items, device=total.device)
    return total / count.clamp(min=1)
