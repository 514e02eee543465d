"""Context-KV attention: what is kept of the past are the contexts at the ends of its chunks."""

from dataclasses import field
from typing import Any

import torch
from huggingface_hub.dataclasses import strict
from torch import Tensor, nn
from transformers.cache_utils import CacheLayerMixin

from newllm.models.backbones import FeedForward
from newllm.models.borrowed_embedding import BorrowedEmbeddingModel
from newllm.models.cache_layers import ChunkContextLayer
from newllm.models.config import LARGEST_SIZE, MOST_LAYERS, BorrowedEmbeddingConfig
from newllm.models.projection import weight_of
from newllm.models.registry import Size, register
from newllm.models.step import Step


@strict
class ContextKVConfig(BorrowedEmbeddingConfig):
    """One attention block of GPT-2's width over contexts that are kept once a chunk.

    Attributes
    ----------
    context_dims
        Width of each context block; their contexts stand one after the other.
    chunk_size
        Tokens a chunk.
    num_attention_heads, intermediate_size
        H, and the width of the MLP.
    """

    model_type = "newllm-context-kv"

    context_dims: list[int] = field(default_factory=lambda: [256])
    chunk_size: int = 100
    num_attention_heads: int = 8
    intermediate_size: int = 3072

    @property
    def context_widths(self) -> list[int]:
        """Width of each context block."""
        return self.context_dims

    def validate_architecture(self) -> None:
        """Refuse shapes that no model can have, naming the field."""
        super().validate_architecture()
        self.require_positive("chunk_size", "num_attention_heads", "intermediate_size")
        if not self.context_dims or min(self.context_dims) < 1:
            raise ValueError(f"context_dims={self.context_dims} must be a list of widths of at least 1, as [256, 128]")
        if len(self.context_dims) > MOST_LAYERS or max(self.context_dims) > LARGEST_SIZE:
            raise ValueError(
                f"context_dims holds {len(self.context_dims)} widths up to {max(self.context_dims)}: take at most "
                f"{MOST_LAYERS} of at most {LARGEST_SIZE}"
            )
        if self.hidden_size % self.num_attention_heads:
            raise ValueError(
                f"hidden_size={self.hidden_size} must be a multiple of num_attention_heads={self.num_attention_heads}"
            )


class ChunkContextAttention(nn.Module):
    """H heads whose queries come from a token, and whose keys and values come from contexts.

    Contexts are attended to as they are: the weights of keys and values are absorbed into queries and outputs, so
    neither keys nor values are built. Keys have no bias: it would add the same to all scores of a query. The heads side
    by side are as wide as the embedding that they are added to, and nothing projects them.

    Parameters
    ----------
    embed_dim
        Width d of the normed token embeddings, and of the result.
    context_width
        Width W of a context, all blocks' together.
    num_heads
        H, a divisor of d.
    """

    def __init__(self, embed_dim: int, context_width: int, num_heads: int) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.scale = (embed_dim // num_heads) ** -0.5
        self.query = nn.Linear(embed_dim, embed_dim)
        self.key = nn.Linear(context_width, embed_dim, bias=False)
        self.value = nn.Linear(context_width, embed_dim)

    def forward(self, embeds: Tensor, contexts: Tensor, slots: Tensor, visible: Tensor) -> Tensor:
        """Attend from each token to the slots that it may see and to its own context.

        Scores are (B, H, T, N + 1); nothing of size T x N x W ever exists.

        Parameters
        ----------
        embeds
            Normed embeddings (B, T, d).
        contexts
            Context after each token (B, T, W).
        slots
            Contexts at chunk ends (B, N, W).
        visible
            How many of the slots, from the first, each token sees (B, T).

        Returns
        -------
        Tensor
            (B, T, d).
        """
        shape = (self.num_heads, -1, contexts.shape[-1])
        key, value = weight_of(self.key).view(shape), weight_of(self.value).view(shape)
        queries = self.query(embeds).unflatten(2, (self.num_heads, -1)).transpose(1, 2) @ key
        hidden = torch.arange(slots.shape[1], device=slots.device) >= visible[..., None]
        to_slots = (queries.flatten(1, 2) @ slots.mT).view(*queries.shape[:3], slots.shape[1])
        to_slots = to_slots.masked_fill(hidden[:, None], -torch.inf)
        to_own = torch.einsum("bhtw,btw->bht", queries, contexts)[..., None]
        weights = (torch.cat([to_slots, to_own], dim=-1) * self.scale).softmax(-1)
        from_slots, from_own = weights[..., :-1], weights[..., -1:]
        mixed = (from_slots.flatten(1, 2) @ slots).view_as(queries) + from_own * contexts[:, None]
        return (mixed @ value.mT).transpose(1, 2).flatten(2) + self.value.bias


def _shape(size: Size) -> dict[str, Any]:
    """GPT-2's shape, and a context of a third of the width, to a multiple of 4."""
    width = size.gpt2_shape["hidden_size"]
    return {
        **size.gpt2_shape,
        "context_dims": [4 * round(width / 12)],
        "chunk_size": size.chunk_size,
        "intermediate_size": 4 * width,
    }


@register("context-kv", _shape, summary="the contexts at the ends of chunks, and the last one")
class ContextKVAttentionLLM(BorrowedEmbeddingModel):
    """Embedding -> embed_norm -> recurrences; attention to contexts -> MLP -> head, tied by default.

    Token p attends to the contexts at the end of every chunk before its own, and to its own context, the one after
    token p. ``h = LN(e + attention)``, then ``h + LN(MLP(h))``.
    """

    config_class = ContextKVConfig
    base_model_prefix = "context_kv"
    _is_stateful = True

    def __init__(self, config: ContextKVConfig) -> None:
        super().__init__(config)
        self.add_recurrences(config.hidden_size, config.context_widths)
        self.attention = ChunkContextAttention(config.hidden_size, self.context_width, config.num_attention_heads)
        self.attention_norm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.mlp = FeedForward(config.hidden_size, config.intermediate_size)
        self.mlp_norm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.post_init()

    @property
    def period(self) -> int:
        """A chunk."""
        return self.config.chunk_size

    def refuse_short_windows(self, seq_length: int) -> None:
        """Refuse windows in which no token has a whole chunk before its own, so that none is ever read."""
        if seq_length <= self.period:
            raise ValueError(
                f"chunk_size={self.period} leaves no whole chunk to attend to in windows of seq_length={seq_length} "
                f"tokens: take a chunk_size of at most {seq_length - 1}, or a seq_length of at least {self.period + 1}"
            )

    def encode(self, step: Step) -> Tensor:
        """Run the recurrences from the state in the cache, attention to the chunks so far, and the MLP: (B, T, d)."""
        memory = ChunkContextLayer() if step.cache is None else step.cache.layers[0]
        assert isinstance(memory, ChunkContextLayer)
        embeds = self.embed_norm(step.embeds)
        contexts = self.unroll_contexts(embeds, memory.state, step)
        counts = memory.advance_by_chunks(contexts, step.token_mask, self.config.chunk_size)
        # A chunk that ends with the token itself is its own context, which counts once.
        visible = (counts - 1) // self.config.chunk_size
        hidden = self.attention_norm(embeds + self.attention(embeds, contexts, memory.chunk_ends, visible))
        return hidden + self.mlp_norm(self.mlp(hidden))

    def cache_layout(self) -> list[type[CacheLayerMixin]]:
        """Return the chunks' contexts with the recurrences' state, and nothing else."""
        return [ChunkContextLayer]

    def cached_values(self, tokens: int) -> int:
        """One context a completed chunk, and the state."""
        return (tokens // self.config.chunk_size + 1) * self.context_width
