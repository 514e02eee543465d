"""Whether the two ways to compute latent attention are one function."""

import copy

import torch
from transformers import PreTrainedModel

from newllm.evaluation.probing import logits_in_pieces, probe_copy, probe_generator, random_tokens, untouched_randomness
from newllm.runtime import move

# A prompt, single tokens, a longer piece, a single token: what decoding, chunked prefill and both together meet.
PIECES = (13, 1, 1, 1, 8, 1)


@torch.no_grad()
def absorption_error(model: PreTrainedModel) -> float:
    """Send the same tokens through both paths of an ``mla`` with the same weights, in float64.

    Parameters
    ----------
    model
        An MLA-Pythia, of any ``attention_path``.

    Returns
    -------
    float
        Largest difference of a logit between ``attention_path="absorbed"`` and ``"expanded"``; rounding is below 1e-9.

    Raises
    ------
    ValueError
        For a model without latents.
    """
    if not hasattr(model.config, "attention_path"):
        raise ValueError(f"{type(model).__name__} has no attention_path: only mla can be computed in two ways")
    with untouched_randomness(model.device):
        ids = random_tokens(model, 2, sum(PIECES), probe_generator())
        absorbed, expanded = (
            logits_in_pieces(_with_path(model, path), ids, PIECES)[0] for path in ("absorbed", "expanded")
        )
    return float((absorbed - expanded).abs().max())


def _with_path(model: PreTrainedModel, path: str) -> PreTrainedModel:
    """Copy a model into float64 with another ``attention_path``."""
    config = copy.deepcopy(model.config)
    config.attention_path = path
    rebuilt = type(model)(config)
    rebuilt.load_state_dict(model.state_dict())
    move(rebuilt, model.device)
    return probe_copy(rebuilt)
