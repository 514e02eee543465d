"""What every model here is: a Hugging Face causal language model with a cache that can be counted."""

from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from transformers import DynamicCache, GenerationMixin, PreTrainedModel
from transformers.cache_utils import Cache, CacheLayerMixin
from transformers.modeling_outputs import CausalLMOutputWithPast

from newllm.models.cache_layers import fill_layers
from newllm.models.loss import next_token_loss, next_token_loss_from_logits
from newllm.models.projection import RecurrenceLinear, init_linear_weights
from newllm.models.recipe import WINDOWS, Recipe
from newllm.models.step import Step


class LanguageModel(PreTrainedModel, GenerationMixin):
    """Tokens in, next-token logits out; subclasses say what stands between, and what is cached.

    A subclass implements `encode`, `cache_layout` and `cached_values`.
    """

    base_model_prefix = "gpt_neox"
    loss_type = "ForCausalLM"
    _supports_sdpa = True
    # What a recurrence remembers cannot be taken back token by token, so assisted generation is refused.
    _is_stateful = False
    # Whether it has a recurrence, which can be trained on its own: see `newllm.models.recurrent`.
    recurrence: ClassVar[bool] = False
    # How it wants to be trained.
    recipe: ClassVar[Recipe] = WINDOWS

    @property
    def period(self) -> int:
        """Tokens after which its way of remembering repeats: a chunk, a segment; 1 where every token is like the next.

        The causality certificate and the cache checks probe whole periods.
        """
        return 1

    def tie_weights(self, missing_keys: set[str] | None = None, recompute_mapping: bool = True) -> None:
        """Tie the head where the config says so. What a loaded file says otherwise is followed, or refused.

        Parameters
        ----------
        missing_keys, recompute_mapping
            As transformers gives them; the first are the parameters that a file does not hold, while one is loaded.

        Raises
        ------
        ValueError
            Where the head is not tied and the file has none: it would stay random.
        """
        super().tie_weights(missing_keys=missing_keys, recompute_mapping=recompute_mapping)
        if missing_keys is None:
            return
        for head, embedding in (self._tied_weights_keys or {}).items():
            if self.config.tie_word_embeddings:
                # A file that holds both, unlike each other, has them untied.
                self.config.tie_word_embeddings = self.get_parameter(head) is self.get_parameter(embedding)
            elif head in missing_keys and embedding not in missing_keys:
                raise ValueError(
                    f"the file holds no {head}, and its tie_word_embeddings is false: set that to true in config.json "
                    "if its head is its embedding"
                )

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
        if use_cache is None:
            use_cache = bool(getattr(self.config, "use_cache", True)) and not self.training and labels is None
        if past_key_values is None and use_cache:
            past_key_values = self.new_cache()
        elif past_key_values is not None:
            fill_layers(past_key_values, self.cache_layout())
        step = Step.build(input_ids, attention_mask, position_ids, past_key_values)
        return self.answer(step, labels, logits_to_keep, return_dict)

    def answer(
        self, step: Step, labels: Tensor | None, logits_to_keep: int | Tensor, return_dict: bool | None
    ) -> CausalLMOutputWithPast | tuple[Any, ...]:
        """Run the model on what `forward` has read of its arguments."""
        loss, logits = self.score(self.encode(step), labels, logits_to_keep)
        output = CausalLMOutputWithPast(loss=loss, logits=logits, past_key_values=step.cache)
        return output.to_tuple() if return_dict is False else output

    def score(
        self, hidden: Tensor, labels: Tensor | None, logits_to_keep: int | Tensor = 0
    ) -> tuple[Tensor | None, Tensor | None]:
        """Return loss and logits of hidden states (B, T, d), arguments and results as in `forward`."""
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

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        """GPT-NeoX initialisation everywhere, but never over the recurrence's own."""
        if isinstance(module, RecurrenceLinear):
            init_linear_weights(module)
        else:
            super()._init_weights(module)
