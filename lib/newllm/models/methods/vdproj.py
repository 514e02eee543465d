"""V-DProj-Pythia: values are projected to a smaller width, and cached and used at that width."""

from huggingface_hub.dataclasses import strict

from newllm.models.attention import MultiHeadAttention
from newllm.models.config import DecoderConfig
from newllm.models.decoder import Decoder
from newllm.models.registry import register


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
        self.require_positive("value_dim")
        if self.value_dim % self.num_attention_heads:
            raise ValueError(
                f"value_dim={self.value_dim} must be a multiple of num_attention_heads={self.num_attention_heads}"
            )
        if self.value_dim == self.hidden_size:
            raise ValueError(f"value_dim={self.value_dim} is the whole width, which is pythia: take that instead")


class ProjectedValueAttention(MultiHeadAttention):
    """Queries and keys as wide as Pythia's, values of ``value_dim`` over all heads; ``dense`` reads those."""

    @staticmethod
    def value_head_dim(config: DecoderConfig) -> int:
        """Width of a head's value."""
        assert isinstance(config, VDProjPythiaConfig)
        return config.value_dim // config.num_attention_heads


@register(
    "vdproj",
    lambda size: {"value_dim": size.scaled(5, 8)},
    summary="keys in full and values at 5/8 of the width, in every layer",
)
class VDProjPythiaModel(Decoder):
    """Pythia's blocks with narrow values that are never restored to the full width."""

    config_class = VDProjPythiaConfig
    attention = ProjectedValueAttention
