"""Cascade: several recurrences side by side and one block that reads them; no attention, nothing cached per token."""

from typing import Any

import torch
import torch.nn.functional as F
from huggingface_hub.dataclasses import strict
from torch import Tensor, nn
from transformers.cache_utils import CacheLayerMixin

from newllm.models.borrowed_embedding import BorrowedEmbeddingModel
from newllm.models.cache_layers import RecurrentStateLayer
from newllm.models.config import MOST_LAYERS, BorrowedEmbeddingConfig
from newllm.models.projection import RecurrenceLinear, unroll_side_by_side
from newllm.models.registry import Size, register
from newllm.models.step import Step


@strict
class CascadeConfig(BorrowedEmbeddingConfig):
    """N recurrences of width P over a token embedding of GPT-2's width.

    Attributes
    ----------
    num_blocks, context_dim
        Number N of context blocks, and width P of each; the model remembers N P values, whatever the length.
    token_context
        Which contexts the token block reads beside token i: ``previous`` (after token i - 1) or ``current`` (after
        token i).
    """

    model_type = "newllm-cascade"

    num_blocks: int = 2
    context_dim: int = 500
    token_context: str = "previous"

    @property
    def context_widths(self) -> list[int]:
        """Width of each context block."""
        return [self.context_dim] * self.num_blocks

    def validate_architecture(self) -> None:
        """Refuse shapes that no model can have, naming the field."""
        super().validate_architecture()
        self.require_positive("num_blocks", most=MOST_LAYERS)
        self.require_positive("context_dim")
        self.require_choice("token_context", ("previous", "current"))


class TokenBlock(nn.Module):
    """What reads the contexts, ``t = LN(e + GELU(W [c ; e] + b))``, with the init of the recurrence.

    Parameters
    ----------
    context_width
        Width N P of all contexts together.
    embed_dim
        Width E of the normed token embeddings, and of the result.
    """

    def __init__(self, context_width: int, embed_dim: int) -> None:
        super().__init__()
        self.linear = RecurrenceLinear(context_width + embed_dim, embed_dim)
        self.norm = nn.LayerNorm(embed_dim, eps=1e-5)

    def forward(self, contexts: Tensor, embeds: Tensor) -> Tensor:
        """Hidden states (..., E) from contexts (..., N P) and normed embeddings (..., E)."""
        return self.norm(embeds + F.gelu(self.linear(torch.cat([contexts, embeds], dim=-1))))


def _shape(size: Size) -> dict[str, Any]:
    """GPT-2's shape, and contexts of 500/768 of the width, to a multiple of 4 so that they halve and quarter."""
    width = size.gpt2_shape["hidden_size"]
    return {**size.gpt2_shape, "num_blocks": 2, "context_dim": 4 * round(width * 125 / 768)}


@register("cascade", _shape, summary="the last contexts of its blocks, a sequence, whatever its length")
class CascadeContextLLM(BorrowedEmbeddingModel):
    """Embedding -> embed_norm -> N recurrences, independent of each other -> token block -> head, tied by default.

    ``c^k_i = LN(c^k_{i-1} + GELU(W_k [c^k_{i-1} ; e_i] + b_k))`` for each block k, and
    ``t_i = LN(e_i + GELU(W [c^1 ; ... ; c^N ; e_i] + b))``, with the contexts before or after token i.
    Meant to be trained around a frozen embedding that comes from somewhere (`newllm.training.embeddings`).
    """

    config_class = CascadeConfig
    base_model_prefix = "cascade"
    _is_stateful = True

    def __init__(self, config: CascadeConfig) -> None:
        super().__init__(config)
        self.add_recurrences(config.hidden_size, config.context_widths)
        self.token_block = TokenBlock(self.context_width, config.hidden_size)
        self.post_init()

    def encode(self, step: Step) -> Tensor:
        """Run the recurrences from the state in the cache, and the token block: (B, T, d)."""
        embeds = self.embed_norm(step.embeds)
        if step.contexts is not None:
            return self.token_block(step.contexts, embeds)
        state_layer = None if step.cache is None else step.cache.layers[0]
        assert state_layer is None or isinstance(state_layer, RecurrentStateLayer)
        state = None if state_layer is None else state_layer.state
        after = unroll_side_by_side(self.context_blocks, embeds, state, step.token_mask)
        if state_layer is not None:
            state_layer.advance(after)
        return self.token_block(self.as_read(after, state), embeds)

    @property
    def reads_previous_contexts(self) -> bool:
        """Whether the token block reads the contexts before its token, as ``token_context`` says."""
        return self.config.token_context == "previous"

    def cache_layout(self) -> list[type[CacheLayerMixin]]:
        """Return one recurrent state, and nothing else."""
        return [RecurrentStateLayer]

    def cached_values(self, tokens: int) -> int:
        """One context a block, however many tokens there were."""
        return self.context_width
