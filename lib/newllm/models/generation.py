"""What transformers' ``generate`` asks of models that make a cache of their own."""

from typing import Any, NoReturn

import torch
from torch import Tensor
from transformers import GenerationConfig, GenerationMixin
from transformers.cache_utils import Cache
from transformers.generation.configuration_utils import ALL_STATIC_CACHE_IMPLEMENTATIONS


class OwnCacheGenerationMixin(GenerationMixin):
    """`GenerationMixin` of a model that decodes through its own cache, unless a caller chooses one that serves.

    transformers looks for that word in the names of a model's bases.
    """

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        raise NotImplementedError

    @property
    def reads_cache_through_update(self) -> bool:
        """Whether the cache is only ever read by what its ``update`` returns, so that any layer that grows serves."""
        return False

    def new_cache(self, precision: str | None = None) -> Cache:
        """Make an empty cache with all of this model's layers."""
        raise NotImplementedError

    def prepare_inputs_for_generation(  # type: ignore[override]
        self, input_ids: Tensor, inputs_embeds: Tensor | None = None, **kwargs: Any
    ) -> dict[str, Any]:
        """Choose what each call of generation gives to `forward`: not the tokenizer that knows stop strings."""
        kwargs.pop("tokenizer", None)
        return super().prepare_inputs_for_generation(  # type: ignore[misc]
            input_ids,  # type: ignore[arg-type]
            inputs_embeds=inputs_embeds,
            **kwargs,
        )

    def _prepare_generation_config(
        self, generation_config: GenerationConfig | None, **kwargs: Any
    ) -> tuple[GenerationConfig, dict[str, Any]]:
        """Refuse kinds of cache that do not serve, before transformers drops or replaces any."""
        asked = kwargs.get("cache_implementation", getattr(generation_config, "cache_implementation", None))
        refused = None
        if asked in ALL_STATIC_CACHE_IMPLEMENTATIONS:
            refused = "this model's cache grows, and has no room that is fixed"
        elif asked == "quantized" and not self.reads_cache_through_update:
            refused = "this model reads its cache in ways that transformers' quantised layers do not serve"
        elif asked == "offloaded" and self.device.type == "cpu":
            refused = "an offloaded cache moves between an accelerator and the CPU, and this model is on the CPU"
        if refused:
            raise ValueError(f'{refused}: leave cache_implementation="{asked}" out, or pass model.new_cache()')
        return super()._prepare_generation_config(generation_config, **kwargs)  # type: ignore[misc]

    def _prepare_cache_for_generation(  # type: ignore[override]
        self, generation_config: GenerationConfig, model_kwargs: dict[str, Any], *args: Any, **kwargs: Any
    ) -> None:
        """Give `generate` this model's own cache where the caller neither passes one nor asks for a kind of cache."""
        is_callers = model_kwargs.get("past_key_values") is not None
        super()._prepare_cache_for_generation(generation_config, model_kwargs, *args, **kwargs)  # type: ignore[misc]
        made = model_kwargs.get("past_key_values")
        if is_callers or made is None or generation_config.cache_implementation is not None:
            return
        own = model_kwargs["past_key_values"] = self.new_cache()
        if generation_config.is_assistant:
            own.activate_past_recording()

    def init_continuous_batching(self, *args: Any, **kwargs: Any) -> NoReturn:
        """Refuse paged caches, whose attention is another than this model's."""
        raise ValueError(
            f"{type(self).__name__} has no paged cache and no continuous batching: call generate() with a batch, and "
            'without cache_implementation="paged"'
        )
