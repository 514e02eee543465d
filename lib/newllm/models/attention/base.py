"""What a block asks of its attention, and the one softmax that most ways of remembering share."""

import torch.nn.functional as F
from torch import Tensor, nn

from newllm.models.config import DecoderConfig
from newllm.models.position import PositionEncoding
from newllm.models.step import Step


class Attention(nn.Module):
    """One way of remembering: reads a block's normed input, extends the cache, returns what the block adds.

    Parameters
    ----------
    config
        The decoder's config.
    layer_index
        Place in the cache.
    """

    def __init__(self, config: DecoderConfig, layer_index: int) -> None:
        super().__init__()
        self.layer_index = layer_index

    @property
    def cached_values_per_token(self) -> int:
        """Values kept for each token."""
        raise NotImplementedError

    def forward(self, hidden: Tensor, step: Step) -> Tensor:
        """Attend from normed states (B, T, width) to them and to the cached ones; returns (B, T, d)."""
        raise NotImplementedError


def attend(
    queries: Tensor, keys: Tensor, values: Tensor, step: Step, encoding: PositionEncoding, scale: float
) -> Tensor:
    """Causal softmax attention under the step's position bias and padding.

    Parameters
    ----------
    queries
        (B, H, T, d).
    keys, values
        (B, G, S, d) and (B, G, S, d_v), G a divisor of H.
    step
        What is known of the tokens.
    encoding
        Whose bias is added to the scores.
    scale
        Factor on the scores.

    Returns
    -------
    Tensor
        (B, H, T, d_v).
    """
    bias = step.attention_bias(encoding, queries.dtype)
    batch, num_heads, length, _ = queries.shape
    num_groups, _, value_width = values.shape[1:]
    if length > 1 and value_width < keys.shape[-1]:
        # Fused kernels want values as wide as keys. For a single query the copy would cost more than they save.
        values = F.pad(values, (0, keys.shape[-1] - value_width))
    if length == 1:
        # One query a head: heads that share keys are the queries of one head, so that each key is read only once.
        queries = queries.reshape(batch, num_groups, num_heads // num_groups, -1)
        if bias is not None and bias.shape[1] > 1:
            bias = bias.reshape(bias.shape[0], num_groups, num_heads // num_groups, -1)
    output = F.scaled_dot_product_attention(
        queries,
        keys,
        values,
        attn_mask=bias,
        is_causal=bias is None and length > 1,
        scale=scale,
        enable_gqa=num_groups < num_heads and length > 1,
    )
    return output[..., :value_width].reshape(batch, num_heads, length, value_width)
