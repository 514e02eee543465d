"""Which contexts each position attends to, found in the model itself: those that its gradient reaches."""

import torch
from torch import Tensor

from newllm.evaluation.probing import probe_copy, probe_generator, random_tokens
from newllm.models.borrowed_embedding import BorrowedEmbeddingModel
from newllm.models.projection import unroll_side_by_side
from newllm.models.step import Step


def attended_contexts(model: BorrowedEmbeddingModel, tokens: int) -> Tensor:
    """Find the contexts that the hidden state at each position depends on.

    Contexts are given to the model as inputs, so that the recurrence carries nothing from one to the next: what is left
    is what the model reads at a position. A context that is masked has a gradient of exactly zero.

    Parameters
    ----------
    model
        A model that reads contexts; a float64 copy runs.
    tokens
        Positions T to look at.

    Returns
    -------
    Tensor
        True where the position (row) reads the context after a token (column), (T, T).
    """
    probed, generator = probe_copy(model), probe_generator()
    assert isinstance(probed, BorrowedEmbeddingModel)
    ids = random_tokens(probed, 1, tokens, generator)
    with torch.no_grad():
        contexts = unroll_side_by_side(probed.context_blocks, probed.normed_embeddings(ids))
    contexts.requires_grad_()
    hidden = probed.encode(Step.build(probed.get_input_embeddings()(ids), contexts=contexts))[0]
    # The plain sum of a normed vector is constant, so its gradient says nothing: any other direction will do.
    direction = torch.randn(hidden.shape[1], generator=generator, dtype=hidden.dtype).to(hidden)
    rows = []
    for state in hidden @ direction:
        (gradient,) = torch.autograd.grad(state, contexts, retain_graph=True)
        rows.append(gradient[0].abs().amax(1) > 0)
    return torch.stack(rows).cpu()
