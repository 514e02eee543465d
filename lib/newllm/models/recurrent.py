"""What the models with a recurrence share: its blocks, the norm of what they read, and contexts collected before."""

from collections.abc import Sequence
from typing import Any, Literal, cast

from torch import Tensor, nn
from transformers.cache_utils import Cache
from transformers.modeling_outputs import CausalLMOutputWithPast

from newllm.models.language_model import LanguageModel
from newllm.models.projection import DiverseProjection, unroll_side_by_side
from newllm.models.step import Step


class RecurrentModel(LanguageModel):
    """Mixin of the models that read the contexts of one or more recurrences, independent of each other.

    A subclass calls `add_recurrences` while it makes its modules.
    """

    recurrence = True
    # Each a DiverseProjection.
    context_blocks: nn.ModuleList
    # Norm of the embeddings that the recurrences read.
    embed_norm: nn.LayerNorm

    def add_recurrences(self, embed_dim: int, widths: Sequence[int]) -> None:
        """Make one recurrence for each of the widths, over embeddings of width ``embed_dim``, and their norm."""
        self.context_blocks = nn.ModuleList(DiverseProjection(embed_dim, width) for width in widths)
        self.embed_norm = nn.LayerNorm(embed_dim, eps=self.config.layer_norm_eps)

    @property
    def projection(self) -> DiverseProjection:
        """The recurrence, of a model that has exactly one.

        Raises
        ------
        TypeError
            Where the model has several.
        """
        if len(self.context_blocks) != 1:
            raise TypeError(f"{type(self).__name__} has {len(self.context_blocks)} context blocks, not one")
        return cast(DiverseProjection, self.context_blocks[0])

    @property
    def context_width(self) -> int:
        """Width of the contexts of all recurrences together."""
        return sum(cast(DiverseProjection, block).proj_dim for block in self.context_blocks)

    @property
    def data_split(self) -> Literal["disjoint", "full"]:
        """What each recurrence is trained on: its own one of as many contiguous parts of the data, or all of it."""
        return "disjoint"

    def normed_embeddings(self, input_ids: Tensor) -> Tensor:
        """Return what the recurrences read, ``embed_norm(embed_in(ids))``: tokens (...) -> (..., E)."""
        return self.embed_norm(self.get_input_embeddings()(input_ids))

    def unroll_contexts(self, embeds: Tensor, state: Tensor | None, step: Step) -> Tensor:
        """Run all recurrences over the new tokens, or take the contexts that were given for them.

        Parameters
        ----------
        embeds
            Normed embeddings (B, T, E).
        state
            Contexts before the first token, the blocks' widths one after the other (B, P); zero where None.
        step
            What is known of the tokens.

        Returns
        -------
        Tensor
            Contexts after each token (B, T, P).
        """
        if step.contexts is not None:
            return step.contexts
        return unroll_side_by_side(self.context_blocks, embeds, state, step.token_mask)

    def freeze_context_blocks(self) -> None:
        """Take the recurrences and the ``embed_norm`` that they were trained against out of training."""
        self.context_blocks.requires_grad_(False)
        self.embed_norm.requires_grad_(False)

    def forward(
        self,
        input_ids: Tensor,
        attention_mask: Tensor | None = None,
        position_ids: Tensor | None = None,
        past_key_values: Cache | None = None,
        use_cache: bool | None = None,
        labels: Tensor | None = None,
        logits_to_keep: int | Tensor = 0,
        return_dict: bool | None = None,
        contexts: Tensor | None = None,
    ) -> CausalLMOutputWithPast | tuple[Any, ...]:
        """Score the next token at every position, as `LanguageModel.forward` does.

        Parameters
        ----------
        input_ids, attention_mask, position_ids, past_key_values, use_cache, labels, logits_to_keep, return_dict
            As there.
        contexts
            What the model reads of its recurrences at each of these tokens (B, T, P), the blocks' widths one after the
            other, where it was collected before. The recurrences do not run then, and nothing is cached.

        Raises
        ------
        ValueError
            Where shapes do not fit, or the cache is another model's.
        """
        if contexts is None:
            return super().forward(
                input_ids,
                attention_mask,
                position_ids,
                past_key_values,
                use_cache,
                labels,
                logits_to_keep,
                return_dict,
            )
        self._check_contexts(contexts, input_ids, use_cache or past_key_values is not None)
        step = Step.build(input_ids, attention_mask, position_ids, None, contexts)
        return self.answer(step, labels, logits_to_keep, return_dict)

    def _check_contexts(self, contexts: Tensor, input_ids: Tensor, cached: bool) -> None:
        if cached:
            raise ValueError("contexts were collected over whole windows: give them without past_key_values")
        expected = (*input_ids.shape, self.context_width)
        if contexts.shape != expected:
            raise ValueError(f"contexts must be (batch, tokens, width) = {expected}, got {tuple(contexts.shape)}")
