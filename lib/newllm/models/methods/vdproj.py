"""V-DProj-Pythia: values are projected to a smaller width, and cached and used at that width."""

from huggingface_hub.dataclasses import strict
from torch import Tensor, nn

from newllm.models.attention import Attention, attend
from newllm.models.config import DecoderConfig
from newllm.models.decoder import Decoder
from newllm.models.registry import register
from newllm.models.step import Step


@strict
class VDProjPythiaConfig(DecoderConfig):
    """Pythia's shape with narrower values.

    Attributes
    ----------
    value_dim
        Width of the values of all heads together; a multiple of the heads.
    """

    model_type = "newllm-vdproj"

    value_dim: int = 320

    def validate_architecture(self) -> None:
        """Refuse shapes that no model can have, naming the field."""
        super().validate_architecture()
        self.refuse_head_groups()
        if self.value_dim < 1 or self.value_dim % self.num_attention_heads:
            raise ValueError(
                f"value_dim={self.value_dim} must be a positive multiple of "
                f"num_attention_heads={self.num_attention_heads}"
            )


class ProjectedValueAttention(Attention):
    """Queries and keys as wide as Pythia's, values of ``value_dim`` over all heads; ``dense`` reads those.

    Parameters
    ----------
    config
        Of the model.
    layer_index
        Place in the cache.
    """

    def __init__(self, config: "VDProjPythiaConfig", layer_index: int) -> None:
        super().__init__(config, layer_index)
        self.num_heads = config.num_attention_heads
        self.head_dim = config.hidden_size // config.num_attention_heads
        self.value_head_dim = config.value_dim // config.num_attention_heads
        self.position = config.build_position(self.head_dim)
        self.query_key_value = nn.Linear(config.hidden_size, 2 * config.hidden_size + config.value_dim)
        self.dense = nn.Linear(config.value_dim, config.hidden_size)

    @property
    def cached_values_per_token(self) -> int:
        """Values kept for each token."""
        return self.num_heads * (self.head_dim + self.value_head_dim)

    def forward(self, hidden: Tensor, step: Step) -> Tensor:
        """Attend from and to ``hidden`` (B, T, d); returns (B, T, d)."""
        # As in Pythia, each head's slice of the fused weight holds its query, then its key, then its value.
        fused = self.query_key_value(hidden).unflatten(-1, (self.num_heads, -1)).transpose(1, 2)
        queries, keys, values = fused.split([self.head_dim, self.head_dim, self.value_head_dim], dim=-1)
        queries = self.position.rotate(queries, step.positions)
        keys = self.position.rotate(keys, step.positions)
        if step.cache is not None:
            keys, values = step.cache.update(keys, values, self.layer_index)
        output = attend(queries, keys, values, step, self.position, self.head_dim**-0.5)
        return self.dense(output.transpose(1, 2).flatten(2))


@register(
    "vdproj",
    lambda size: {"value_dim": size.scaled(5, 8)},
    summary="keys in full and values at 5/8 of the width, in every layer",
)
class VDProjPythiaModel(Decoder):
    """Pythia's blocks with narrow values that are never restored to the full width."""

    config_class = VDProjPythiaConfig
    attention = ProjectedValueAttention
