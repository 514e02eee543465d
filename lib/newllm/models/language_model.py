"""What every model here is: a Hugging Face causal language model with a cache that can be counted."""

import os
from pathlib import Path
from typing import Any, ClassVar, cast

import torch
from safetensors import safe_open
from torch import Tensor, nn
from transformers import PreTrainedConfig, PreTrainedModel
from transformers.cache_utils import Cache, CacheLayerMixin
from transformers.modeling_outputs import CausalLMOutputWithPast

from newllm.models.call_arguments import check_cache_position, check_logits_to_keep, check_num_items
from newllm.models.conditions import holds_whole_numbers, require
from newllm.models.config import LanguageModelConfig
from newllm.models.decoder_cache import AtomicCache, own_layers, prepare_cache
from newllm.models.generation import OwnCacheGenerationMixin
from newllm.models.loader_file import write_loader
from newllm.models.loss import IGNORED_LABEL, next_token_loss, next_token_loss_from_logits
from newllm.models.projection import RecurrenceLinear, init_linear_weights
from newllm.models.recipe import WINDOWS, Recipe
from newllm.models.step import ONE_TEXT_A_CACHE, Step
from newllm.tensor_files import unwritable_in_words

# What weights are stored in, as safetensors names it.
STORED_TYPES = {"F64": torch.float64, "F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}


class LanguageModel(PreTrainedModel, OwnCacheGenerationMixin):
    """Tokens in, next-token logits out; subclasses say what stands between, and what is cached.

    A subclass implements `encode`, `cache_layout` and `cached_values`.
    """

    base_model_prefix = "gpt_neox"
    _supports_sdpa = True
    # What a recurrence remembers cannot be taken back token by token, so assisted generation is refused.
    _is_stateful = False
    # The loss takes num_items_in_batch, by which a Trainer makes one step of several calls.
    accepts_loss_kwargs = True
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

    @staticmethod
    def embedding_width(config: LanguageModelConfig) -> int:
        """Width E of the token embedding: that of the hidden states, unless something stands between."""
        return config.hidden_size

    def refuse_short_windows(self, seq_length: int) -> None:
        """Refuse windows in which its way of remembering makes no difference: they would be another model's.

        Parameters
        ----------
        seq_length
            Tokens of the windows that it is to be trained on and scored on.

        Raises
        ------
        ValueError
            Names the setting that is too large for them.
        """

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

    def new_cache(self, precision: str | None = None) -> AtomicCache:
        """Make an empty cache with all of this model's layers.

        Parameters
        ----------
        precision
            What entries by token are kept in: ``float32``, ``bfloat16``, ``float8``, ``int8`` or ``int4``. None keeps
            them as they are, in layers that grow by blocks.

        Raises
        ------
        ValueError
            For an unknown precision, and where this model keeps more than entries by token and a recurrence's state.
        """
        cache = AtomicCache()
        cache.layers[:] = own_layers(self.cache_layout(), precision)
        self.prepare_cache(cache)
        return cache

    def prepare_cache(self, cache: Cache) -> None:
        """Refuse a cache that this model cannot go on with; give an empty one its layers, in place."""
        prepare_cache(
            cache,
            self.cache_layout(),
            self.cache_signature,
            cast(Tensor, self.get_input_embeddings().weight).dtype,
            serves_other_layers=self.reads_cache_through_update,
        )

    def __init__(self, config: PreTrainedConfig) -> None:
        if getattr(config, "quantization_config", None) is not None:
            raise ValueError(
                f"{type(self).__name__} has no quantised weights: take quantization_config out, and load it in "
                "bfloat16 where memory is short"
            )
        super().__init__(config)
        # Set here, because the base class guesses it from the name of the class; a Trainer counts labels by it.
        self.loss_type = "ForCausalLM"
        # Of which models a cache may be used by this one: of those of the same method and settings.
        self.cache_signature = f"{type(self).__qualname__} {config.cache_settings()}"

    def get_correct_attn_implementation(self, requested_attention: str | None, is_init_check: bool = False) -> str:
        """Return torch's own attention; ValueError where another is asked for, which would change nothing."""
        if requested_attention not in (None, "sdpa"):
            raise ValueError(
                f"attn_implementation={requested_attention!r} is not offered: {type(self).__name__} always computes "
                "through torch's scaled_dot_product_attention (sdpa)"
            )
        return super().get_correct_attn_implementation(requested_attention, is_init_check)

    def set_attn_implementation(self, attn_implementation: str | dict, allow_all_kernels: bool = False) -> None:
        """Do nothing for torch's own attention; ValueError for another."""
        named = attn_implementation.values() if isinstance(attn_implementation, dict) else [attn_implementation]
        for name in named:
            self.get_correct_attn_implementation(name)

    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        position_ids: Tensor | None = None,
        past_key_values: Cache | None = None,
        use_cache: bool | None = None,
        labels: Tensor | None = None,
        logits_to_keep: int | Tensor = 0,
        return_dict: bool | None = None,
        inputs_embeds: Tensor | None = None,
        token_type_ids: Tensor | None = None,
        cache_position: Tensor | None = None,
        output_hidden_states: bool | None = None,
        output_attentions: bool | None = None,
        num_items_in_batch: Tensor | int | None = None,
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
            Positions of the new tokens (B or 1, T); derived from ``attention_mask`` where omitted. Where they do not go
            up, another text begins, which sees nothing of the one before it.
        past_key_values
            A cache of the tokens before, filled by this model or empty; extended in place.
        use_cache
            Make a cache where none is given. By default as ``config.use_cache`` says, and never while training.
        labels
            The tokens again (B, T), not shifted: this model shifts. -100 is not scored.
        logits_to_keep
            Compute only this many last logits, or those at these positions (N,); 0 computes all. Not with labels.
        return_dict
            False gives a tuple.
        inputs_embeds
            Token embeddings (B, T, E) instead of ``input_ids``, as the input embedding gives them.
        token_type_ids
            Zeros, as tokenizers give them for one text; there are no embeddings of token types.
        cache_position
            Places of the new tokens in the cache (T,), as older callers give them; there is no choice in them.
        output_hidden_states
            Return what enters each block, and what leaves the final norm. By default as the config says.
        output_attentions
            Refused: attention weights are never built.
        num_items_in_batch
            Divide the loss by this number of predicted tokens, 1 or more, instead of by that in this call.
        contexts
            What the model reads of its recurrences at each of these tokens (B, T, P), the blocks' widths one after the
            other, where it was collected before. The recurrences do not run then, and nothing is cached.

        Returns
        -------
        CausalLMOutputWithPast
            ``loss`` in nats per predicted token; ``logits`` (B, T, V), but None in training with labels, where the
            loss is computed without ever holding them; ``past_key_values``; ``hidden_states``, each (B, T, width).

        Raises
        ------
        ValueError
            Where shapes do not fit, the cache is another model's, or something is asked for that this model has not;
            the cache then holds what it held before the call.
        """
        embeds = self._read_tokens(input_ids, inputs_embeds)
        check_logits_to_keep(logits_to_keep, embeds.shape[1])
        check_num_items(num_items_in_batch)
        if output_attentions or (output_attentions is None and self.config.output_attentions):
            raise ValueError(f"{type(self).__name__} never builds attention weights: output_attentions is not offered")
        if token_type_ids is not None:
            require(
                token_type_ids == 0,
                f"{type(self).__name__} has no token types: token_type_ids must be zeros, or left out",
            )
        if labels is not None and not (isinstance(logits_to_keep, int) and logits_to_keep == 0):
            raise ValueError("labels need all logits: leave logits_to_keep out")
        if labels is not None:
            labels = self._read_labels(labels, (embeds.shape[0], embeds.shape[1]))
        if contexts is not None:
            self.check_contexts(contexts, embeds, cached=bool(use_cache or past_key_values is not None))
            use_cache = False
        cache = past_key_values
        is_cache_asked_for = use_cache or cache is not None
        if use_cache is None:
            use_cache = bool(self.config.use_cache) and not self.training and labels is None
        if cache is not None:
            self.prepare_cache(cache)
        elif use_cache:
            cache = self.new_cache()
        check_cache_position(cache_position, 0 if cache is None else cache.get_seq_length(), embeds.shape[1])
        step = Step.build(embeds, attention_mask, position_ids, cache, contexts, takes_gaps=not self.recurrence)
        if step.has_gaps:
            self._check_gaps(step, bool(is_cache_asked_for))
            cache = step.cache
        # All that can be refused has been: from here on the cache changes.
        step.note_in_cache()
        if self.config.output_hidden_states if output_hidden_states is None else output_hidden_states:
            step.hidden_states = []
        hidden = self.encode(step)
        loss, logits = self.score(hidden, labels, logits_to_keep, num_items_in_batch)
        output = CausalLMOutputWithPast(
            loss=loss,
            logits=logits,
            past_key_values=cache,
            hidden_states=None if step.hidden_states is None else (*(step.hidden_states or [embeds]), hidden),
        )
        return output if (self.config.return_dict if return_dict is None else return_dict) else output.to_tuple()

    def _read_tokens(self, input_ids: Tensor | None, inputs_embeds: Tensor | None) -> Tensor:
        """Token embeddings (B, T, E) of the one that is given."""
        if (input_ids is None) == (inputs_embeds is None):
            raise ValueError("give either input_ids or inputs_embeds")
        if inputs_embeds is not None:
            return inputs_embeds
        assert input_ids is not None
        if input_ids.ndim != 2:
            raise ValueError(f"input_ids must be (batch, tokens), got {tuple(input_ids.shape)}")
        if input_ids.dtype not in (torch.int32, torch.int64):
            raise ValueError(f"input_ids must be whole numbers, int64 or int32, got {input_ids.dtype}")
        try:
            return self.get_input_embeddings()(input_ids)
        except IndexError:
            # Not asked beforehand: a GPU would have to be waited for at every token.
            low, high = (int(end) for end in input_ids.aminmax())
            last = self.config.vocab_size - 1
            raise ValueError(f"input_ids go from {low} to {high}, but this model reads ids from 0 to {last}") from None

    def _read_labels(self, labels: Tensor, shape: tuple[int, int]) -> Tensor:
        """Labels (B, T) as int64; ValueError where they are not the tokens again, or are none of the vocabulary."""
        if labels.shape != shape:
            raise ValueError(f"labels must be the tokens again, (batch, tokens) = {shape}, got {tuple(labels.shape)}")
        if not holds_whole_numbers(labels):
            raise ValueError(f"labels must be whole numbers, got {labels.dtype}")
        if torch.compiler.is_compiling():
            # What labels are is not known while a graph is made of them; a wrong one fails where the loss looks it up.
            return labels.long()
        known = (labels >= 0) & (labels < self.config.vocab_size) | (labels == IGNORED_LABEL)
        if not bool(known.all()):
            raise ValueError(
                f"labels must be ids of the vocabulary, 0 to {self.config.vocab_size - 1}, or {IGNORED_LABEL}, got "
                f"{int(labels[~known][0])}"
            )
        return labels.long()

    def _check_gaps(self, step: Step, is_cache_asked_for: bool) -> None:
        """Refuse positions that do not go up by one where they mean nothing; several texts in a row fill no cache."""
        if self.recurrence:
            raise ValueError(
                f"{type(self).__name__} has a recurrence, which reads one token after the other, without gaps or new "
                "beginnings: position_ids must go up by one, and each text needs a row of its own"
            )
        if step.texts is not None:
            if is_cache_asked_for:
                raise ValueError(ONE_TEXT_A_CACHE)
            step.cache = None

    def score(
        self,
        hidden: Tensor,
        labels: Tensor | None,
        logits_to_keep: int | Tensor = 0,
        num_items: Tensor | int | None = None,
    ) -> tuple[Tensor | None, Tensor | None]:
        """Return loss and logits of hidden states (B, T, d), arguments and results as in `forward`."""
        head = self.get_output_embeddings()
        # A head that was wrapped, as by an adapter, does more than multiply by its weight: it has to be called.
        if labels is not None and self.training and type(head) is nn.Linear:
            return next_token_loss(hidden, head.weight, labels, num_items), None
        kept = slice(-logits_to_keep, None) if isinstance(logits_to_keep, int) else logits_to_keep
        logits = head(hidden[:, kept])
        return None if labels is None else next_token_loss_from_logits(logits, labels, num_items), logits

    def check_contexts(self, contexts: Tensor, embeds: Tensor, *, cached: bool) -> None:
        """Refuse contexts of a recurrence: a model that has one checks their shape instead."""
        raise TypeError(f"{type(self).__name__} has no recurrence that contexts could stand in for")

    @classmethod
    def register_for_auto_class(cls, auto_class: Any = "AutoModel") -> None:
        """Do nothing: what is saved beside weights is always the same small file, never a copy of this class's."""

    @staticmethod
    def _load_pretrained_model(  # type: ignore[override]
        model: "LanguageModel", state_dict: dict | None, checkpoint_files: list[str] | None, *args: Any, **kwargs: Any
    ) -> Any:
        """Load weights as transformers does, wherever they come from; ValueError for quantised ones.

        Quantised weights mean nothing without their scales, but would be loaded as if their values were the weights.
        """
        _refuse_quantised(state_dict, checkpoint_files)
        return PreTrainedModel._load_pretrained_model(model, state_dict, checkpoint_files, *args, **kwargs)

    def save_pretrained(self, save_directory: str | os.PathLike, *args: Any, **kwargs: Any) -> None:
        """Save config and weights as transformers does, and a file beside them by which anybody can load them.

        Raises
        ------
        UnwritableError
            Where the system refuses, as on a full disk.
        """
        self.config.auto_map = write_loader(Path(save_directory), type(self.config), type(self))
        try:
            with unwritable_in_words(Path(save_directory)):
                super().save_pretrained(save_directory, *args, **kwargs)
        finally:
            del self.config.auto_map

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        """GPT-NeoX initialisation everywhere, but never over the recurrence's own."""
        if isinstance(module, RecurrenceLinear):
            init_linear_weights(module)
        else:
            super()._init_weights(module)


def _refuse_quantised(state_dict: dict[str, Tensor] | None, files: list[str] | None) -> None:
    """Refuse weights in another type than a float of 16 bits or more, by the headers of their files alone."""
    stored = {name: str(weight.dtype) for name, weight in (state_dict or {}).items()}
    for path in (path for path in files or [] if path.endswith(".safetensors")):
        with safe_open(path, framework="pt") as file:
            stored |= {name: file.get_slice(name).get_dtype() for name in file.keys()}  # noqa: SIM118 (it is no dict)
    known = {*STORED_TYPES, *map(str, STORED_TYPES.values())}
    for name, kind in stored.items():
        if kind not in known:
            raise ValueError(
                f"{name} is stored as {kind}, which is no weight without the scales it was quantised by: load the "
                "model before it was quantised"
            )
