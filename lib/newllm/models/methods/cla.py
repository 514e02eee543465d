"""CLA-Pythia: neighbouring layers share the keys and values of the first of them (cross-layer attention)."""

from typing import Any

from huggingface_hub.dataclasses import strict
from torch import Tensor, nn
from transformers.cache_utils import CacheLayerMixin, DynamicLayer

from newllm.models.attention import Attention, attend
from newllm.models.config import GroupedDecoderConfig
from newllm.models.decoder import Decoder
from newllm.models.registry import Paper, Size, register
from newllm.models.step import Step


@strict
class CLAPythiaConfig(GroupedDecoderConfig):
    """Pythia's shape with keys and values that layers share.

    Attributes
    ----------
    layers_sharing
        Neighbouring layers that share keys and values. The last ones may be fewer.
    """

    model_type = "newllm-cla"

    layers_sharing: int = 2

    def validate_architecture(self) -> None:
        """Refuse shapes that no model can have, naming the field."""
        super().validate_architecture()
        self.require_positive("layers_sharing")
        if self.layers_sharing == 1:
            raise ValueError("layers_sharing=1 shares nothing, which is pythia: take that instead")
        if self.layers_sharing > self.num_hidden_layers:
            raise ValueError(
                f"layers_sharing={self.layers_sharing} must be at most num_hidden_layers={self.num_hidden_layers}"
            )


class CrossLayerAttention(Attention):
    """Attention of Brandon et al. (2024, sec. 2.2): of each run of ``layers_sharing`` layers, only the first has W_KV.

    That layer makes keys and values from its own input and caches them; the others make queries alone, and attend to
    what it has cached. Each caches ``2 G d_h`` values a token, or none.

    Parameters
    ----------
    config
        Of the model; G is its ``num_key_value_heads``.
    layer_index
        Number of the block.
    """

    reads_cache_through_update = True

    def __init__(self, config: "CLAPythiaConfig", layer_index: int) -> None:
        super().__init__(config, layer_index)
        self.num_heads = config.num_attention_heads
        self.num_groups = config.num_key_value_heads or config.num_attention_heads
        self.head_dim = config.hidden_size // config.num_attention_heads
        self.position = config.build_position(self.head_dim)
        # Which run of layers it belongs to, and so its place in the cache.
        self.run, place = divmod(layer_index, config.layers_sharing)
        self.is_first = place == 0
        biases = config.bias_of_attention()
        self.query = nn.Linear(config.hidden_size, config.hidden_size, bias=biases != "none")
        if self.is_first:
            width = 2 * self.num_groups * self.head_dim
            self.key_value = nn.Linear(config.hidden_size, width, bias=biases != "none")
        self.dense = nn.Linear(config.hidden_size, config.hidden_size, bias=biases == "all")

    @property
    def cached_values_per_token(self) -> int:
        """Values kept for each token: none where a layer before keeps them."""
        return 2 * self.num_groups * self.head_dim if self.is_first else 0

    def forward(self, hidden: Tensor, step: Step) -> Tensor:
        """Attend from ``hidden`` (B, T, d) to what this run of layers keeps; returns (B, T, d)."""
        queries = self.position.rotate(self._heads(self.query(hidden), self.num_heads), step.positions)
        # Not made within `once`: a block that is recomputed for its gradient has to do again all that it did.
        made = self._keys_and_values(hidden, step) if self.is_first else None
        shared = step.once(("keys and values", self.run), lambda: made)
        assert shared is not None
        keys, values = shared
        output = attend(queries, keys, values, step, self.position, self.head_dim**-0.5)
        return self.dense(output.transpose(1, 2).flatten(2))

    def _keys_and_values(self, hidden: Tensor, step: Step) -> tuple[Tensor, Tensor]:
        """Make those of new tokens (B, T, d) and cache them; returns those of all tokens, each (B, G, S, d_h)."""
        keys, values = self._heads(self.key_value(hidden), 2 * self.num_groups).chunk(2, dim=1)
        keys = self.position.rotate(keys, step.positions)
        return (keys, values) if step.cache is None else step.cache.update(keys, values, self.run)

    def _heads(self, states: Tensor, number: int) -> Tensor:
        """(B, T, heads x d_h) -> (B, heads, T, d_h)."""
        return states.unflatten(-1, (number, self.head_dim)).transpose(1, 2)


def _bytes_of_a_context(size: Size) -> dict[str, Any]:
    """Keys and values once for all layers, of a quarter of the heads: half of the width a token, as ``context``.

    Where a quarter of the heads does not divide them, the next smaller number that does.
    """
    groups = max(count for count in range(1, max(1, size.heads // 4) + 1) if size.heads % count == 0)
    return {"layers_sharing": size.layers, "num_key_value_heads": groups}


@register(
    "cla",
    _bytes_of_a_context,
    summary="a control: keys and values of a quarter of the heads, once for all layers, context's bytes",
    control="context",
    papers=(Paper("Brandon et al.", 2024, "https://arxiv.org/abs/2405.12981"),),
)
class CLAPythiaModel(Decoder):
    """Pythia's blocks with cross-layer attention.

    As registered it keeps exactly what ``context`` keeps, at every size of the Pythia suite. The paper's own choice is
    ``cla@layers_sharing=2`` with more key-value heads.
    """

    config_class = CLAPythiaConfig
    attention = CrossLayerAttention

    def activation_checkpointing_enable(
        self, activation_checkpointing_kwargs: dict[str, Any] | None = None, *args: Any, **kwargs: Any
    ) -> None:
        """Recompute blocks in the backward pass, however that is asked for; ValueError for the reentrant kind.

        That one sees only what a block is called with, so the gradient of keys and values that pass from one block to
        others would be lost in silence.
        """
        if (activation_checkpointing_kwargs or {}).get("use_reentrant"):
            raise ValueError("layers share keys and values, whose gradient use_reentrant=True would lose: pass False")
        super().activation_checkpointing_enable(activation_checkpointing_kwargs, *args, **kwargs)

    def cache_layout(self) -> list[type[CacheLayerMixin]]:
        """One stock layer for each run of layers."""
        return [DynamicLayer] * -(-self.config.num_hidden_layers // self.config.layers_sharing)
