"""The one decoder: GPT-NeoX's blocks, with attention and MLP side by side."""

from typing import ClassVar, cast

import torch.nn.functional as F
from torch import Tensor, nn
from transformers.cache_utils import CacheLayerMixin, DynamicLayer
from transformers.modeling_layers import GradientCheckpointingLayer

from newllm.models.attention import Attention, MultiHeadAttention
from newllm.models.config import DecoderConfig
from newllm.models.language_model import LanguageModel
from newllm.models.step import Step


class FeedForward(nn.Module):
    """Two linear maps with a GELU between: d -> intermediate_size -> d."""

    def __init__(self, hidden_size: int, intermediate_size: int) -> None:
        super().__init__()
        self.dense_h_to_4h = nn.Linear(hidden_size, intermediate_size)
        self.dense_4h_to_h = nn.Linear(intermediate_size, hidden_size)

    def forward(self, hidden: Tensor) -> Tensor:
        """(B, T, d) -> (B, T, d)."""
        return self.dense_4h_to_h(F.gelu(self.dense_h_to_4h(hidden)))


class DecoderLayer(GradientCheckpointingLayer):
    """``h + attention(LN(h)) + mlp(LN'(h))``: the parallel block of GPT-NeoX (Black et al. 2022, sec. 2.1)."""

    attention: Attention

    def __init__(self, config: DecoderConfig, attention: Attention, source_width: int) -> None:
        super().__init__()
        self.input_layernorm = nn.LayerNorm(source_width, eps=config.layer_norm_eps)
        self.post_attention_layernorm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.attention = attention
        self.mlp = FeedForward(config.hidden_size, config.intermediate_size)

    def forward(self, hidden: Tensor, source: Tensor, step: Step) -> Tensor:
        """One block.

        Parameters
        ----------
        hidden
            The residual stream (B, T, d).
        source
            What attention reads, before its norm: the stream itself in most models (B, T, source_width), or what is
            remembered of all tokens so far (B, S, source_width).
        step
            What is known of the tokens.
        """
        return (
            hidden
            + self.attention.read(source, self.input_layernorm, step)
            + self.mlp(self.post_attention_layernorm(hidden))
        )


class DecoderStack(nn.Module):
    """Embedding, blocks and final norm, under the parameter names of GPT-NeoX checkpoints."""

    def __init__(
        self, config: DecoderConfig, attention: type[Attention], embedding_width: int, source_width: int
    ) -> None:
        super().__init__()
        self.embed_in = nn.Embedding(config.vocab_size, embedding_width)
        self.layers = nn.ModuleList(
            DecoderLayer(config, attention(config, index), source_width) for index in range(config.num_hidden_layers)
        )
        self.final_layer_norm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)


class Decoder(LanguageModel):
    """Base of the models that differ from Pythia in their attention or in what enters the blocks.

    A subclass names its attention; one with another input overrides `embed`.
    """

    config_class = DecoderConfig
    supports_gradient_checkpointing = True
    _no_split_modules = ["DecoderLayer"]  # noqa: RUF012 (transformers reads it so)
    attention: ClassVar[type[Attention]] = MultiHeadAttention
    _tied_weights_keys = {"embed_out.weight": "gpt_neox.embed_in.weight"}  # noqa: RUF012 (transformers reads it so)

    def __init__(self, config: DecoderConfig) -> None:
        super().__init__(config)
        self.gpt_neox = DecoderStack(
            config, type(self).attention, self.embedding_width(config), self.source_width(config)
        )
        self.embed_out = nn.Linear(config.hidden_size, config.vocab_size, bias=False)
        self.add_parts(config)
        self.post_init()

    @staticmethod
    def embedding_width(config: DecoderConfig) -> int:
        """Width E of the token embedding: that of the blocks, unless something stands between."""
        return config.hidden_size

    @staticmethod
    def source_width(config: DecoderConfig) -> int:
        """Width of what attention reads: the residual stream's, unless it reads something else."""
        return config.hidden_size

    def add_parts(self, config: DecoderConfig) -> None:
        """Make the modules that Pythia does not have, before weights are initialised."""

    def get_input_embeddings(self) -> nn.Module:
        """Return the token embedding."""
        return self.gpt_neox.embed_in

    def set_input_embeddings(self, value: nn.Module) -> None:
        """Exchange the token embedding, as resizing it does."""
        self.gpt_neox.embed_in = cast(nn.Embedding, value)

    def get_output_embeddings(self) -> nn.Module:
        """Return the output embedding, which shares its weight with the token embedding where the config ties them."""
        return self.embed_out

    def set_output_embeddings(self, new_embeddings: nn.Linear) -> None:
        """Exchange the output embedding, as resizing it does."""
        self.embed_out = new_embeddings

    @property
    def reads_cache_through_update(self) -> bool:
        """Whether any cache layer that grows serves, as the attention says."""
        return self.attention.reads_cache_through_update

    def embed(self, step: Step) -> Tensor:
        """Make what enters the first block (B, T, d)."""
        return step.embeds

    def encode(self, step: Step) -> Tensor:
        """Run embedding, blocks and final norm: (B, T, d)."""
        return self.run_blocks(self.embed(step), step)

    def run_blocks(self, hidden: Tensor, step: Step, source: Tensor | None = None) -> Tensor:
        """Run blocks and final norm over states (B, T, d); attention reads ``source``, or else what its block reads."""
        for layer in self.gpt_neox.layers:
            step.keep_hidden_state(hidden)
            hidden = layer(hidden, hidden if source is None else source, step)
        return self.gpt_neox.final_layer_norm(hidden)

    def cache_layout(self) -> list[type[CacheLayerMixin]]:
        """One stock layer a block."""
        return [DynamicLayer] * self.config.num_hidden_layers

    def cached_values(self, tokens: int) -> int:
        """Sum over the blocks of what their attention keeps a token, times the tokens."""
        per_token = [part.cached_values_per_token for part in self.modules() if isinstance(part, Attention)]
        return tokens * sum(per_token)
