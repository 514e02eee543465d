"""How the order of tokens reaches a model: through its position encoding, and through the causal mask."""

import math
from collections.abc import Sequence

import pandas as pd
import torch
from transformers import PreTrainedModel

from newllm.evaluation.probing import probe_copy, probe_generator, random_tokens, untouched_randomness
from newllm.models.position import PositionEncodingConfig


@torch.no_grad()
def order_sensitivity(model: PreTrainedModel, tokens: int = 24) -> float:
    """Turn the tokens before the last one around and see how far the last logits move.

    Attention without a position encoding is a weighted mean over a set. In the first block it does not depend on the
    order; from the second block on it does, because the causal mask gave each earlier token a past of its own
    (Kazemnejad et al. 2023).

    Parameters
    ----------
    model
        Any causal language model; a float64 copy runs.
    tokens
        Length of the sequence, at least 3.

    Returns
    -------
    float
        Largest change of a logit of the last token, as a share of the largest logit. Rounding stays below 1e-9.
    """
    if tokens < 3:
        raise ValueError(f"tokens={tokens} must be 3 or more: fewer have no order before the last one")
    probed = probe_copy(model)
    with untouched_randomness(probed.device):
        ids = random_tokens(probed, 1, tokens, probe_generator())
        turned = torch.cat([ids[:, :-1].flip(1), ids[:, -1:]], dim=1)
        first, second = (probed(row, use_cache=False).logits[0, -1] for row in (ids, turned))
    return float((first - second).abs().max() / first.abs().max())


def score_by_distance(encodings: Sequence[str | PositionEncodingConfig], head_dim: int, longest: int) -> pd.DataFrame:
    """Compute what an encoding does to the score of a query with an equal key, further and further back.

    Query and key are all ones, so that without an encoding the score is ``sqrt(head_dim)`` at every distance.

    Parameters
    ----------
    encodings
        Names of encodings, or their configs.
    head_dim
        Width of a head.
    longest
        Largest distance, in tokens.

    Returns
    -------
    pandas.DataFrame
        One row an encoding and distance, in the order given and from 0 on: encoding, distance, score.
    """
    positions = torch.arange(longest + 1)[None]
    ones = torch.ones(1, 1, longest + 1, head_dim, dtype=torch.float64)
    frames = []
    for config in map(PositionEncodingConfig.parse, encodings):
        strategy = config.build(head_dim, num_heads=1)
        rotated = strategy.rotate(ones, positions)[0, 0]
        scores = rotated[-1] @ rotated.T / math.sqrt(head_dim)
        bias = strategy.score_bias(positions[:, -1:], positions, torch.float64)
        if bias is not None:
            scores = scores + bias[0, 0, 0]
        # The last position asks, so the farthest key stands first.
        nearest_first = scores.flip(0).numpy()
        frames.append(pd.DataFrame({"encoding": config.type, "distance": positions[0], "score": nearest_first}))
    return pd.concat(frames, ignore_index=True)
