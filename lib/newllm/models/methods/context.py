"""Context-Pythia: every layer's attention reads one context, so that is all the cache keeps of a token."""

from typing import Any

import torch.nn.functional as F
from huggingface_hub.dataclasses import strict
from torch import Tensor, nn
from transformers.cache_utils import CacheLayerMixin, DynamicLayer

from newllm.models.attention import Attention, attend
from newllm.models.config import DecoderConfig, round_to_heads
from newllm.models.decoder import Decoder
from newllm.models.position import causal_mask
from newllm.models.projection import weight_of
from newllm.models.recurrent import RecurrentModel
from newllm.models.registry import register
from newllm.models.step import Step


@strict
class ContextPythiaConfig(DecoderConfig):
    """A decoder of width ``hidden_size`` over contexts of width ``proj_dim``.

    Attributes
    ----------
    proj_dim
        Width P of a context; rounded up to a multiple of the heads.
    """

    model_type = "newllm-context"

    proj_dim: int = 256

    def __post_init__(self, **kwargs: Any) -> None:
        self.proj_dim = round_to_heads(self.proj_dim, self.num_attention_heads)
        super().__post_init__(**kwargs)


class SharedContextAttention(Attention):
    """Queries, keys and values of H heads, all read from contexts of width P that the model keeps once.

    Few new tokens are scored against the contexts themselves, with the weights of keys and values absorbed into queries
    and outputs (DeepSeek-AI 2024, sec. 2.1.2); only the entries of a key that carry its position are rebuilt.

    Parameters
    ----------
    config
        Its ``proj_dim`` is P.
    layer_index
        Number of the block.
    """

    def __init__(self, config: "ContextPythiaConfig", layer_index: int) -> None:
        super().__init__(config, layer_index)
        self.num_heads = config.num_attention_heads
        self.head_dim = config.hidden_size // config.num_attention_heads
        self.scale = self.head_dim**-0.5
        self.position = config.build_position(self.head_dim)
        self.query_key_value = nn.Linear(config.proj_dim, 3 * config.hidden_size)
        self.dense = nn.Linear(config.hidden_size, config.hidden_size)

    @property
    def cached_values_per_token(self) -> int:
        """None of its own: the model keeps the contexts for all blocks."""
        return 0

    def forward(self, hidden: Tensor, step: Step) -> Tensor:
        """Attend from the last T of the normed contexts (B, S, P) to all of them; returns (B, T, d)."""
        queries = self.position.rotate(self._heads(hidden[:, -step.length :], 0), step.positions)
        # Expanding costs S x P x 2 d multiplications, absorbing S x P x 2 H a new token.
        absorbs = step.length < self.head_dim
        output = (self.absorbed if absorbs else self.expanded)(queries, hidden, step)
        return self.dense(output.transpose(1, 2).flatten(2))

    def expanded(self, queries: Tensor, contexts: Tensor, step: Step) -> Tensor:
        """Attend with keys and values of all S contexts rebuilt: (B, H, T, d_h) and (B, S, P) -> (B, H, T, d_h)."""
        keys = self.position.rotate(self._heads(contexts, 1), step.key_positions)
        return attend(queries, keys, self._heads(contexts, 2), step, self.position, self.scale)

    def absorbed(self, queries: Tensor, contexts: Tensor, step: Step) -> Tensor:
        """Attend to the contexts themselves; same as `expanded`."""
        batch, _, length, _ = queries.shape
        rotary = self.position.rotary_dim
        weight, bias = self._parts()
        # A bias of the unrotated key entries adds the same to all scores of a query, so it drops out of the softmax.
        absorbed = queries[..., rotary:] @ weight[:, 1, rotary:]
        scores = absorbed.flatten(1, 2) @ contexts.transpose(1, 2)
        scores = scores.unflatten(1, (self.num_heads, length))
        if rotary:
            keys = F.linear(contexts, weight[:, 1, :rotary].flatten(0, 1), bias[:, 1, :rotary].flatten())
            keys = keys.unflatten(2, (self.num_heads, rotary)).transpose(1, 2)
            keys = self.position.rotate(keys, step.key_positions)
            scores = scores + queries[..., :rotary] @ keys.transpose(2, 3)
        scores = scores * self.scale
        mask = step.attention_bias(self.position, queries.dtype)
        if mask is None and length > 1:
            mask = causal_mask(length, length, queries.dtype, queries.device)
        if mask is not None:
            scores = scores + mask
        mixed = scores.softmax(-1).flatten(1, 2) @ contexts
        mixed = mixed.view(batch, self.num_heads, length, -1)
        return mixed @ weight[:, 2].transpose(1, 2) + bias[:, 2, None]

    def _parts(self) -> tuple[Tensor, Tensor]:
        """Weight (H, 3, d_h, P) and bias (H, 3, d_h): each head holds its query, its key, its value, as in GPT-NeoX."""
        shape = (self.num_heads, 3, self.head_dim)
        return weight_of(self.query_key_value).view(*shape, -1), self.query_key_value.bias.view(shape)

    def _heads(self, contexts: Tensor, part: int) -> Tensor:
        """Return queries (part 0), keys (1) or values (2) of contexts (B, S, P): (B, H, S, d_h)."""
        weight, bias = self._parts()
        states = F.linear(contexts, weight[:, part].flatten(0, 1), bias[:, part].flatten())
        return states.unflatten(2, (self.num_heads, self.head_dim)).transpose(1, 2)


@register(
    "context",
    lambda size: {"proj_dim": size.scaled(1, 2)},
    summary="one context of every token, once for all layers",
)
class ContextPythiaModel(RecurrentModel, Decoder):
    """Embedding -> embed_norm -> DiverseProjection -> Linear to the blocks; their attention reads the contexts.

    Contexts are kept a token, so cropping is exact: the recurrence goes on from the last one that is left.
    """

    config_class = ContextPythiaConfig
    attention = SharedContextAttention

    @staticmethod
    def source_width(config: DecoderConfig) -> int:
        """Width P of a context."""
        assert isinstance(config, ContextPythiaConfig)
        return config.proj_dim

    def add_parts(self, config: DecoderConfig) -> None:
        """Make the recurrence, and the way from a context into the blocks."""
        assert isinstance(config, ContextPythiaConfig)
        self.add_recurrences(config.hidden_size, [config.proj_dim])
        self.context_to_hidden = nn.Linear(config.proj_dim, config.hidden_size)

    def encode(self, step: Step) -> Tensor:
        """Run recurrence, blocks and final norm: (B, T, d)."""
        state = None
        if step.cache is not None and step.past_length > 0:
            layer = step.cache.layers[0]
            assert isinstance(layer, DynamicLayer) and layer.keys is not None
            # A padding token leaves the context as it was, so the last one kept is the state with padding too.
            state = layer.keys[:, 0, -1]
        contexts = self.unroll_contexts(self.embed_norm(step.embeds), state, step)
        hidden = self.context_to_hidden(contexts)
        if step.cache is not None:
            kept, _ = step.cache.update(contexts[:, None], contexts[:, None, :, :0], 0)
            contexts = kept[:, 0]
        return self.run_blocks(hidden, step, contexts)

    def cache_layout(self) -> list[type[CacheLayerMixin]]:
        """One stock layer, for all blocks."""
        return [DynamicLayer]

    def cached_values(self, tokens: int) -> int:
        """One context a token."""
        return tokens * self.config.proj_dim
