"""KA-Pythia: past values are replaced by past attention outputs. Saves nothing; asks what a cached value has to be."""

from huggingface_hub.dataclasses import strict

from newllm.models.attention.key_attention import KeyAttention
from newllm.models.decoder import Decoder
from newllm.models.pythia import PythiaConfig
from newllm.models.registry import register


@strict
class KAPythiaConfig(PythiaConfig):
    """A Pythia shape; reads the config of a trained Pythia too."""

    model_type = "newllm-ka"

    def validate_architecture(self) -> None:
        """Refuse shapes that no model can have, naming the field."""
        super().validate_architecture()
        self.refuse_head_groups()


@register("ka", lambda size: {}, summary="keys and attention outputs of every token, in every layer: no saving")
class KAPythiaModel(Decoder):
    """Pythia's blocks with key attention; ``from_pretrained`` takes the folder of a trained Pythia as it is."""

    config_class = KAPythiaConfig
    attention = KeyAttention
