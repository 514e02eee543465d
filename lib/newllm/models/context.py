"""Context-Pythia: every layer's attention reads one context, so that is all the cache keeps of a token."""

from typing import Any

from huggingface_hub.dataclasses import strict
from torch import Tensor, nn
from transformers.cache_utils import CacheLayerMixin, DynamicLayer

from newllm.models.attention.shared_context import SharedContextAttention
from newllm.models.config import DecoderConfig, round_to_heads
from newllm.models.decoder import Decoder
from newllm.models.projection import DiverseProjection
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

    def validate_architecture(self) -> None:
        """Refuse shapes that no model can have, naming the field."""
        super().validate_architecture()
        self.refuse_head_groups()


@register(
    "context",
    lambda size: {"proj_dim": size.scaled(1, 2)},
    summary="one context of every token, once for all layers",
)
class ContextPythiaModel(Decoder):
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
        """Make the norm of the embedding, the recurrence, and the way from a context into the blocks."""
        assert isinstance(config, ContextPythiaConfig)
        self.embed_norm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.context_blocks = nn.ModuleList([DiverseProjection(config.hidden_size, config.proj_dim)])
        self.context_to_hidden = nn.Linear(config.proj_dim, config.hidden_size)

    def encode(self, step: Step) -> Tensor:
        """Run recurrence, blocks and final norm: (B, T, d)."""
        state = None
        if step.cache is not None and step.past_length > 0:
            layer = step.cache.layers[0]
            assert isinstance(layer, DynamicLayer) and layer.keys is not None
            # A padding token leaves the context as it was, so the last one kept is the state with padding too.
            state = layer.keys[:, 0, -1]
        contexts = self.unroll_contexts(self.normed_embeddings(step.input_ids), state, step)
        hidden = self.context_to_hidden(contexts)
        if step.cache is not None:
            kept, _ = step.cache.update(contexts[:, None], contexts[:, None, :, :0], 0)
            contexts = kept[:, 0]
        for block in self.gpt_neox.layers:
            hidden = block(hidden, contexts, step)
        return self.gpt_neox.final_layer_norm(hidden)

    def cache_layout(self) -> list[type[CacheLayerMixin]]:
        """One stock layer, for all blocks."""
        return [DynamicLayer]

    def cached_values(self, tokens: int) -> int:
        """One context a token."""
        return tokens * self.config.proj_dim
