"""DProj-Pythia: the blocks run at the width of a compressed context, so keys and values shrink with it."""

from typing import Any

from huggingface_hub.dataclasses import strict
from torch import Tensor
from transformers.cache_utils import CacheLayerMixin

from newllm.models.cache_layers import RecurrentStateLayer
from newllm.models.config import DecoderConfig, GroupedDecoderConfig, LanguageModelConfig, round_to_heads
from newllm.models.decoder import Decoder
from newllm.models.recurrent import RecurrentModel
from newllm.models.registry import register
from newllm.models.step import Step


@strict
class DProjPythiaConfig(GroupedDecoderConfig):
    """Blocks of width ``proj_dim`` behind an embedding of width ``embedding_size``.

    Attributes
    ----------
    embedding_size
        Width E of the token embedding.
    proj_dim
        Width P of a context and of the blocks; rounded up to a multiple of the heads. ``hidden_size`` follows it, and
        the MLP is four times as wide.
    """

    model_type = "newllm-dproj"

    embedding_size: int = 512
    proj_dim: int = 320

    not_settings = frozenset({"hidden_size", "intermediate_size", "tie_word_embeddings"})

    def __post_init__(self, **kwargs: Any) -> None:
        self.require_positive("embedding_size")
        self.proj_dim = round_to_heads(self.proj_dim, self.num_attention_heads)
        self.derive("proj_dim", hidden_size=self.proj_dim, intermediate_size=4 * self.proj_dim)
        super().__post_init__(**kwargs)

    def validate_architecture(self) -> None:
        """Refuse shapes that no model can have, naming the field."""
        super().validate_architecture()
        if self.tie_word_embeddings:
            raise ValueError("tie_word_embeddings=True is impossible: the embedding is not as wide as the head reads")


@register(
    "dproj",
    lambda size: {"embedding_size": size.width, "proj_dim": size.scaled(5, 8)},
    summary="keys and values of the compressed contexts, in every layer, and the last context",
)
class DProjPythiaModel(RecurrentModel, Decoder):
    """Embedding -> embed_norm -> DiverseProjection -> Pythia's blocks at the context's width -> head."""

    config_class = DProjPythiaConfig
    _is_stateful = True

    @staticmethod
    def embedding_width(config: LanguageModelConfig) -> int:
        """Width E of the token embedding, before projection."""
        assert isinstance(config, DProjPythiaConfig)
        return config.embedding_size

    def add_parts(self, config: DecoderConfig) -> None:
        """Make the recurrence."""
        assert isinstance(config, DProjPythiaConfig)
        self.add_recurrences(config.embedding_size, [config.proj_dim])

    def embed(self, step: Step) -> Tensor:
        """Contexts (B, T, P), going on from the state in the cache."""
        state_layer = None if step.cache is None else step.cache.layers[-1]
        assert state_layer is None or isinstance(state_layer, RecurrentStateLayer)
        state = None if state_layer is None else state_layer.state
        contexts = self.unroll_contexts(self.embed_norm(step.embeds), state, step)
        if state_layer is not None:
            state_layer.advance(contexts)
        return contexts

    def cache_layout(self) -> list[type[CacheLayerMixin]]:
        """Return the stock layers, then the recurrence's state."""
        return [*super().cache_layout(), RecurrentStateLayer]

    def cached_values(self, tokens: int) -> int:
        """Keys and values a token, and one context a sequence."""
        return super().cached_values(tokens) + self.config.proj_dim
