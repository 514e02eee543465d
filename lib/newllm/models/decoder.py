"""The one decoder: blocks of a backbone, whose attention is what the methods differ in."""

from typing import ClassVar, cast

from torch import Tensor, nn
from transformers.cache_utils import CacheLayerMixin, DynamicLayer

from newllm.models.attention import Attention, MultiHeadAttention
from newllm.models.backbones import BACKBONES, DecoderStack
from newllm.models.config import DecoderConfig
from newllm.models.language_model import LanguageModel
from newllm.models.step import Step


class Decoder(LanguageModel):
    """Base of the models that differ from Pythia in their attention or in what enters the blocks.

    A subclass names its attention; one with another input overrides `embed`.
    """

    config_class = DecoderConfig
    supports_gradient_checkpointing = True
    _no_split_modules = ["NeoXLayer", "LlamaLayer"]  # noqa: RUF012 (transformers reads it so)
    attention: ClassVar[type[Attention]] = MultiHeadAttention

    def __init__(self, config: DecoderConfig) -> None:
        super().__init__(config)
        self.backbone = BACKBONES[config.backbone]
        # Names are those of the backbone's checkpoints, so that these load as they are.
        self.base_model_prefix = self.backbone.stack
        self._tied_weights_keys = {
            f"{self.backbone.head}.weight": f"{self.backbone.stack}.{self.backbone.embedding}.weight"
        }
        self.add_module(
            self.backbone.stack,
            DecoderStack(config, type(self).attention, self.embedding_width(config), self.source_width(config)),
        )
        self.add_module(self.backbone.head, nn.Linear(config.hidden_size, config.vocab_size, bias=False))
        self.add_parts(config)
        self.post_init()

    @property
    def stack(self) -> DecoderStack:
        """Embedding, blocks and final norm."""
        return cast(DecoderStack, self.get_submodule(self.backbone.stack))

    @staticmethod
    def source_width(config: DecoderConfig) -> int:
        """Width of what attention reads: the residual stream's, unless it reads something else."""
        return config.hidden_size

    def add_parts(self, config: DecoderConfig) -> None:
        """Make the modules that Pythia does not have, before weights are initialised."""

    def get_input_embeddings(self) -> nn.Module:
        """Return the token embedding."""
        return self.stack.embedding

    def set_input_embeddings(self, value: nn.Module) -> None:
        """Exchange the token embedding, as resizing it does."""
        setattr(self.stack, self.backbone.embedding, value)

    def get_output_embeddings(self) -> nn.Module:
        """Return the output embedding, which shares its weight with the token embedding where the config ties them."""
        return self.get_submodule(self.backbone.head)

    def set_output_embeddings(self, new_embeddings: nn.Linear) -> None:
        """Exchange the output embedding, as resizing it does."""
        setattr(self, self.backbone.head, new_embeddings)

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
        for layer in self.stack.layers:
            step.keep_hidden_state(hidden)
            hidden = layer(hidden, hidden if source is None else source, step)
        return self.stack.final_norm(hidden)

    def cache_layout(self) -> list[type[CacheLayerMixin]]:
        """One stock layer a block."""
        return [DynamicLayer] * self.config.num_hidden_layers

    def cached_values(self, tokens: int) -> int:
        """Sum over the blocks of what their attention keeps a token, times the tokens."""
        per_token = [part.cached_values_per_token for part in self.modules() if isinstance(part, Attention)]
        return tokens * sum(per_token)
