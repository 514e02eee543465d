"""Multi-head attention that caches keys and values: the baseline, and grouped keys and values beside it."""

from torch import Tensor, nn

from newllm.models.attention.base import Attention, attend
from newllm.models.config import DecoderConfig
from newllm.models.step import Step


class MultiHeadAttention(Attention):
    """Attention of GPT-NeoX, with its fused weight laid out as published; keys and values may be shared by groups.

    Caches 2 x G x d_h values a token (G key-value heads of width d_h).

    Parameters
    ----------
    config
        A decoder's config; ``num_key_value_heads`` (G) divides ``num_attention_heads``.
    layer_index
        Place in the cache.
    """

    def __init__(self, config: DecoderConfig, layer_index: int) -> None:
        super().__init__(config, layer_index)
        self.num_heads = config.num_attention_heads
        self.num_groups = config.num_key_value_heads or config.num_attention_heads
        self.head_dim = config.hidden_size // config.num_attention_heads
        self.position = config.build_position(self.head_dim)
        width = (self.num_heads + 2 * self.num_groups) * self.head_dim
        self.query_key_value = nn.Linear(config.hidden_size, width)
        self.dense = nn.Linear(config.hidden_size, config.hidden_size)

    @property
    def cached_values_per_token(self) -> int:
        """Values kept for each token."""
        return 2 * self.num_groups * self.head_dim

    def project(self, hidden: Tensor, step: Step) -> tuple[Tensor, Tensor, Tensor]:
        """Return queries (B, H, T, d_h), keys and values (B, G, T, d_h) of the new tokens, positions encoded."""
        batch, length, _ = hidden.shape
        per_group = self.num_heads // self.num_groups
        # Each group's slice of the fused weight holds its queries, then its key, then its value.
        fused = self.query_key_value(hidden).view(batch, length, self.num_groups, per_group + 2, self.head_dim)
        queries, keys, values = fused.split([per_group, 1, 1], dim=3)
        queries = queries.reshape(batch, length, self.num_heads, self.head_dim).transpose(1, 2)
        queries = self.position.rotate(queries, step.positions)
        keys = self.position.rotate(keys.squeeze(3).transpose(1, 2), step.positions)
        return queries, keys, values.squeeze(3).transpose(1, 2)

    def forward(self, hidden: Tensor, step: Step) -> Tensor:
        """Attend from and to ``hidden`` (B, T, d); returns (B, T, d)."""
        queries, keys, values = self.project(hidden, step)
        if step.cache is not None:
            keys, values = step.cache.update(keys, values, self.layer_index)
        output = attend(queries, keys, values, step, self.position, self.head_dim**-0.5)
        return self.dense(output.transpose(1, 2).flatten(2))
