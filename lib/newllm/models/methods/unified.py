"""Pythia with its position encoding as the one thing that varies: RoPE, ALiBi or none."""

from huggingface_hub.dataclasses import strict

from newllm.models.config import DecoderConfig
from newllm.models.decoder import Decoder
from newllm.models.registry import register


@strict
class UnifiedPythiaConfig(DecoderConfig):
    """A decoder's shape with ``position`` to choose."""

    model_type = "newllm-unified"


@register("unified", lambda size: {}, summary="the baseline with a choice of position encoding")
class UnifiedPythiaModel(Decoder):
    """The baseline's blocks under RoPE, ALiBi or no position encoding."""

    config_class = UnifiedPythiaConfig
