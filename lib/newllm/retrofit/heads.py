"""The weights of a baseline's attention, head by head, whatever the backbone lays them out in."""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from newllm.models.attention import MultiHeadAttention


@dataclass
class Heads:
    """What one layer's attention makes of its input, in float64.

    Attributes
    ----------
    queries, keys, values
        Weights (H or G, d_h, d), a matrix a head.
    query_bias, key_bias, value_bias
        Biases (H or G, d_h); zero where there are none.
    output
        Weight (d, H, d_h) of the last linear map.
    output_bias
        Its bias (d,); zero where there is none.
    """

    queries: Tensor
    keys: Tensor
    values: Tensor
    query_bias: Tensor
    key_bias: Tensor
    value_bias: Tensor
    output: Tensor
    output_bias: Tensor

    @property
    def share(self) -> int:
        """Query heads to a key-value head."""
        return self.queries.shape[0] // self.keys.shape[0]


def _exact(linear: nn.Linear) -> tuple[Tensor, Tensor]:
    """Weight and bias in float64 on the CPU."""
    weight = linear.weight.detach().to("cpu", torch.float64)
    bias = linear.bias
    return weight, weight.new_zeros(len(weight)) if bias is None else bias.detach().to("cpu", torch.float64)


def _split_sizes(attention: MultiHeadAttention) -> list[int]:
    """Rows of the queries, the key and the value of a group, in a fused weight."""
    width = attention.head_dim
    return [attention.num_heads // attention.num_groups * width, width, width]


def read_heads(attention: MultiHeadAttention) -> Heads:
    """Take the weights of a baseline's attention apart."""
    groups, width = attention.num_groups, attention.head_dim
    if attention.is_fused:
        weight, bias = _exact(attention.query_key_value)
        rows = weight.unflatten(0, (groups, -1)).split(_split_sizes(attention), dim=1)
        entries = bias.unflatten(0, (groups, -1)).split(_split_sizes(attention), dim=1)
        weights, biases = [part.flatten(0, 1) for part in rows], [part.flatten() for part in entries]
        output, output_bias = _exact(attention.dense)
    else:
        both = [_exact(linear) for linear in (attention.q_proj, attention.k_proj, attention.v_proj)]
        weights, biases = [weight for weight, _ in both], [bias for _, bias in both]
        output, output_bias = _exact(attention.o_proj)
    queries, keys, values = (weight.unflatten(0, (-1, width)) for weight in weights)
    query_bias, key_bias, value_bias = (bias.unflatten(0, (-1, width)) for bias in biases)
    return Heads(queries, keys, values, query_bias, key_bias, value_bias, output.unflatten(1, (-1, width)), output_bias)


@torch.no_grad()
def write_heads(attention: MultiHeadAttention, heads: Heads) -> None:
    """Put weights into a baseline's attention of the same shape; ValueError where it has no place for a bias."""
    weights = [heads.queries, heads.keys, heads.values]
    biases = [heads.query_bias, heads.key_bias, heads.value_bias]
    if attention.is_fused:
        groups = attention.num_groups
        fused = torch.cat([part.flatten(0, 1).unflatten(0, (groups, -1)) for part in weights], dim=1)
        fused_bias = torch.cat([part.flatten().unflatten(0, (groups, -1)) for part in biases], dim=1)
        fill(attention.query_key_value, fused.flatten(0, 1), fused_bias.flatten())
        fill(attention.dense, heads.output.flatten(1), heads.output_bias)
    else:
        for linear, weight, bias in zip(
            (attention.q_proj, attention.k_proj, attention.v_proj), weights, biases, strict=True
        ):
            fill(linear, weight.flatten(0, 1), bias.flatten())
        fill(attention.o_proj, heads.output.flatten(1), heads.output_bias)


@torch.no_grad()
def fill(linear: nn.Linear, weight: Tensor, bias: Tensor | None = None) -> None:
    """Give a linear map a weight and a bias; ValueError where it has none and the bias is not zero."""
    linear.weight.copy_(weight)
    if linear.bias is not None:
        linear.bias.copy_(torch.zeros(len(weight)) if bias is None else bias)
    elif bias is not None and bool(bias.any()):
        raise ValueError("there is no bias in the new attention, but the old one needs one: give it biases")
