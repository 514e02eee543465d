"""What every model here is: a Hugging Face causal language model with a cache that can be counted."""

from typing import Any, cast

import torch
from torch import Tensor, nn
from transformers import DynamicCache, GenerationMixin, PreTrainedConfig, PreTrainedModel
from transformers.cache_utils import Cache, CacheLayerMixin
from transformers.modeling_outputs import CausalLMOutputWithPast

from newllm.models.cache_layers import fill_layers
from newllm.models.loss import next_token_loss, next_token_loss_from_logits
from newllm.models.projection import DiverseProjection, RecurrenceLinear, init_linear_weights, unroll_side_by_side
from newllm.models.step import Step


class LanguageModel(PreTrainedModel, GenerationMixin):
    """Tokens in, next-token logits out; subclasses say what stands between, and what is cached.

    A subclass implements :meth:`encode`, :meth:`cache_layout` and :meth:`cached_values`.
    """

    base_model_prefix = "gpt_neox"
    loss_type = "ForCausalLM"
    _supports_sdpa = True
    # What a recurrence remembers cannot be taken back token by token, so assisted generation is refused.
    _is_stateful = False
    # How it is trained, by a name that `newllm.experiments.recipes` knows: on windows that each start from an empty
    # cache.
    training_recipe = "windows"
    # The recurrences of this model, each a DiverseProjection; empty where it has none.
    context_blocks: nn.ModuleList
    # Norm of the embeddings that the recurrences read; only where there are any.
    embed_norm: nn.LayerNorm

    def encode(self, step: Step) -> Tensor:
        """Hidden states (B, T, d) that the output embedding turns into logits."""
        raise NotImplementedError

    def cache_layout(self) -> list[type[CacheLayerMixin]]:
        """Class of each cache layer, in order."""
        raise NotImplementedError

    def cached_values(self, tokens: int) -> int:
        """Values that one sequence keeps in the cache after ``tokens`` tokens, by formula."""
        raise NotImplementedError

    def new_cache(self) -> DynamicCache:
        """Make an empty cache with all of this model's layers."""
        cache = DynamicCache()
        fill_layers(cache, self.cache_layout())
        return cache

    def __init__(self, config: PreTrainedConfig) -> None:
        super().__init__(config)
        self.context_blocks = nn.ModuleList()

    @property
    def projection(self) -> DiverseProjection:
        """The recurrence, of a model that has exactly one.

        Raises
        ------
        TypeError
            Where the model has none, or several.
        """
        if len(self.context_blocks) != 1:
            raise TypeError(f"{type(self).__name__} has {len(self.context_blocks)} context blocks, not one")
        block = self.context_blocks[0]
        assert isinstance(block, DiverseProjection)
        return block

    def normed_embeddings(self, input_ids: Tensor) -> Tensor:
        """Return what the recurrences read, ``embed_norm(embed_in(ids))``: tokens (...) -> (..., E)."""
        return self.embed_norm(self.get_input_embeddings()(input_ids))

    @property
    def context_width(self) -> int:
        """Width of the contexts of all recurrences together."""
        return sum(cast(DiverseProjection, block).proj_dim for block in self.context_blocks)

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
        for name, parameter in self.named_parameters():
            if "embed_norm" in name:
                parameter.requires_grad_(False)
        self.context_blocks.requires_grad_(False)

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
        """Score the next token at every position.

        Parameters
        ----------
        input_ids
            Tokens (B, T).
        attention_mask
            1 for real tokens, 0 for padding, over cached and new tokens (B, S).
        position_ids
            Positions of the new tokens (B, T); derived from ``attention_mask`` where omitted.
        past_key_values
            A ``DynamicCache`` of the tokens before; extended in place.
        use_cache
            Make a cache where none is given. By default as ``config.use_cache`` says, and never while training.
        labels
            The tokens again (B, T), not shifted: this model shifts. -100 is not scored.
        logits_to_keep
            Compute only this many last logits; 0 computes all.
        return_dict
            False gives a tuple.
        contexts
            What the model reads of its recurrences at each of these tokens (B, T, P), the blocks' widths one after the
            other, where it was collected before. The recurrences do not run then, and nothing is cached.

        Returns
        -------
        CausalLMOutputWithPast
            ``loss`` in nats per predicted token; ``logits`` (B, T, V), but None in training with labels, where the
            loss is computed without ever holding them; ``past_key_values``.

        Raises
        ------
        ValueError
            Where shapes do not fit or the cache is another model's.
        """
        if contexts is not None:
            self._check_contexts(contexts, input_ids, use_cache or past_key_values is not None)
            use_cache = False
        if use_cache is None:
            use_cache = bool(getattr(self.config, "use_cache", True)) and not self.training and labels is None
        if past_key_values is None and use_cache:
            past_key_values = self.new_cache()
        elif past_key_values is not None:
            fill_layers(past_key_values, self.cache_layout())
        step = Step.build(input_ids, attention_mask, position_ids, past_key_values, contexts)
        loss, logits = self.score(self.encode(step), labels, logits_to_keep)
        output = CausalLMOutputWithPast(loss=loss, logits=logits, past_key_values=past_key_values)
        return output.to_tuple() if return_dict is False else output

    def score(
        self, hidden: Tensor, labels: Tensor | None, logits_to_keep: int | Tensor = 0
    ) -> tuple[Tensor | None, Tensor | None]:
        """Return loss and logits of hidden states (B, T, d), arguments and results as in :meth:`forward`."""
        head = self.get_output_embeddings()
        loss = logits = None
        if labels is not None and self.training:
            loss = next_token_loss(hidden, head.weight, labels)
        else:
            kept = slice(-logits_to_keep, None) if isinstance(logits_to_keep, int) else logits_to_keep
            logits = head(hidden[:, kept])
            if labels is not None:
                loss = next_token_loss_from_logits(logits, labels)
        return loss, logits

    def _check_contexts(self, contexts: Tensor, input_ids: Tensor, cached: bool) -> None:
        if len(self.context_blocks) == 0:
            raise ValueError(f"{type(self).__name__} has no recurrence that contexts could stand in for")
        if cached:
            raise ValueError("contexts were collected over whole windows: give them without past_key_values")
        expected = (*input_ids.shape, self.context_width)
        if contexts.shape != expected:
            raise ValueError(f"contexts must be (batch, tokens, width) = {expected}, got {tuple(contexts.shape)}")

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        """GPT-NeoX initialisation everywhere, but never over the recurrence's own."""
        if isinstance(module, RecurrenceLinear):
            init_linear_weights(module)
        else:
            super()._init_weights(module)
