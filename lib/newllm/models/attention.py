"""What a block asks of its attention, the softmax that most ways of remembering share, and the baseline's attention."""

from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from newllm.models.config import DecoderConfig, GroupedDecoderConfig
from newllm.models.position import PositionEncoding
from newllm.models.step import Step

# From so many tokens on, wider queries and keys cost less than a bias of as many rows and columns.
LONG_CALL = 1024
# Dtypes whose products need no wider ones to sum in.
EXACT_DTYPES = (torch.float32, torch.float64)


class Attention(nn.Module):
    """One way of remembering: reads a block's normed input, extends the cache, returns what the block adds.

    Parameters
    ----------
    config
        The decoder's config.
    layer_index
        Place in the cache.
    """

    # Whether it reads the cache only by what `update` returns, as keys and values that both have a width: then a
    # caller's own or quantised cache layers serve as well as the stock ones.
    reads_cache_through_update: ClassVar[bool] = False

    def __init__(self, config: DecoderConfig, layer_index: int) -> None:
        super().__init__()
        self.layer_index = layer_index

    @property
    def cached_values_per_token(self) -> int:
        """Values kept for each token."""
        raise NotImplementedError

    def read(self, source: Tensor, norm: nn.Module, step: Step) -> Tensor:
        """Norm what the block reads (B, T or S, width), and attend; where all blocks read one thing, norm it once."""
        return self(norm(source), step)

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
    columns = encoding.bias_columns(keys, scale) if step.is_plain and step.length >= LONG_CALL else None
    if columns is not None:
        queries, keys = (_with_columns(states, more) for states, more in zip((queries, keys), columns, strict=True))
        return attend_with_bias(queries, keys, values, None, scale)
    return attend_with_bias(queries, keys, values, step.attention_bias(encoding, queries.dtype), scale)


def _with_columns(states: Tensor, columns: Tensor) -> Tensor:
    """Put columns (T or 1, c), or others for each head (heads, 1, c), behind those of each head (B, heads, T, d)."""
    return torch.cat([states, columns.expand(*states.shape[:-1], -1)], dim=-1)


def attend_with_bias(queries: Tensor, keys: Tensor, values: Tensor, bias: Tensor | None, scale: float) -> Tensor:
    """Softmax attention under a bias that says what is seen, or plainly causal.

    Parameters
    ----------
    queries
        (B, H, T, d).
    keys, values
        (B, G, S, d) and (B, G, S, d_v), G a divisor of H.
    bias
        Added to the scores (B or 1, 1 or H, T, S); None where T = S tokens each see those up to themselves, or where a
        single query sees all keys.
    scale
        Factor on the scores.

    Returns
    -------
    Tensor
        (B, H, T, d_v).
    """
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
        if value_width != keys.shape[-1] and queries.dtype in EXACT_DTYPES:
            output = _attend_by_products(queries, keys, values, bias, scale)
            return output.reshape(batch, num_heads, length, value_width)
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


def _attend_by_products(queries: Tensor, keys: Tensor, values: Tensor, bias: Tensor | None, scale: float) -> Tensor:
    """Attend by two products; what torch does itself for values of another width copies all keys to scale them."""
    scores = (queries * scale) @ keys.mT
    return (scores if bias is None else scores + bias).softmax(-1) @ values


class MultiHeadAttention(Attention):
    """Attention of GPT-NeoX or Llama, with weights laid out as published; groups of heads may share keys and values.

    Caches G x (d_h + d_v) values a token (G key-value heads; in GPT-NeoX itself values are as wide as keys, d_v = d_h).

    Parameters
    ----------
    config
        A decoder's config; G is its ``num_key_value_heads``, where it has such a field, and else H.
    layer_index
        Place in the cache.
    """

    reads_cache_through_update = True

    def __init__(self, config: DecoderConfig, layer_index: int) -> None:
        super().__init__(config, layer_index)
        self.num_heads = config.num_attention_heads
        groups = config.num_key_value_heads if isinstance(config, GroupedDecoderConfig) else None
        self.num_groups = groups or config.num_attention_heads
        self.head_dim = config.hidden_size // config.num_attention_heads
        self.value_dim = self.value_head_dim(config)
        self.position = config.build_position(self.head_dim)
        widths = (
            self.num_heads * self.head_dim,
            self.num_groups * self.head_dim,
            self.num_groups * self.value_dim,
        )
        biases = config.bias_of_attention()
        bias_in, bias_out = biases != "none", biases == "all"
        joined = self.num_heads * self.value_dim
        self.is_fused = config.backbone == "neox"
        if self.is_fused:
            self.query_key_value = nn.Linear(config.hidden_size, sum(widths), bias=bias_in)
            self.dense = nn.Linear(joined, config.hidden_size, bias=bias_out)
        else:
            self.q_proj, self.k_proj, self.v_proj = (
                nn.Linear(config.hidden_size, width, bias=bias_in) for width in widths
            )
            self.o_proj = nn.Linear(joined, config.hidden_size, bias=bias_out)

    @staticmethod
    def value_head_dim(config: DecoderConfig) -> int:
        """Width d_v of a value: that of queries and keys, unless a method says otherwise."""
        return config.hidden_size // config.num_attention_heads

    @property
    def cached_values_per_token(self) -> int:
        """Values kept for each token."""
        return self.num_groups * (self.head_dim + self.value_dim)

    def project(self, hidden: Tensor, step: Step) -> tuple[Tensor, Tensor, Tensor]:
        """Return queries (B, H, T, d_h), keys (B, G, T, d_h) and values (B, G, T, d_v), positions encoded."""
        if self.is_fused:
            of_queries = self.num_heads // self.num_groups * self.head_dim
            # Each group's slice of the fused weight holds its queries, then its key, then its value.
            fused = self.query_key_value(hidden).unflatten(-1, (self.num_groups, -1)).transpose(1, 2)
            queries, keys, values = fused.split([of_queries, self.head_dim, self.value_dim], dim=-1)
            queries = queries.unflatten(-1, (-1, self.head_dim)).transpose(2, 3).flatten(1, 2)
        else:
            projected = (self.q_proj(hidden), self.k_proj(hidden), self.v_proj(hidden))
            heads = (self.num_heads, self.num_groups, self.num_groups)
            queries, keys, values = (
                states.unflatten(-1, (count, -1)).transpose(1, 2)
                for states, count in zip(projected, heads, strict=True)
            )
        return self.position.rotate(queries, step.positions), self.position.rotate(keys, step.positions), values

    def join(self, outputs: Tensor) -> Tensor:
        """Put the outputs of the heads (B, H, T, d_v) together, through the last linear map: (B, T, d)."""
        return (self.dense if self.is_fused else self.o_proj)(outputs.transpose(1, 2).flatten(2))

    def forward(self, hidden: Tensor, step: Step) -> Tensor:
        """Attend from and to ``hidden`` (B, T, d); returns (B, T, d)."""
        queries, keys, values = self.project(hidden, step)
        if step.cache is not None:
            keys, values = step.cache.update(keys, values, self.layer_index)
        output = attend(queries, keys, values, step, self.position, self.head_dim**-0.5)
        return self.join(output)
