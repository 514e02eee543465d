"""MLA-Pythia: one compressed vector a token and layer is cached, and keys and values are made from it."""

from dataclasses import replace
from typing import Any

from huggingface_hub.dataclasses import strict

from newllm.models.attention.latent import LatentAttention
from newllm.models.config import DecoderConfig
from newllm.models.decoder import Decoder
from newllm.models.position import PositionEncodingConfig
from newllm.models.registry import register

ATTENTION_PATHS = ("auto", "absorbed", "expanded")


@strict
class MLAPythiaConfig(DecoderConfig):
    """Pythia's shape with latent attention.

    Attributes
    ----------
    kv_dim
        Width of the latent that is cached for each token and layer.
    rotary_dim
        With RoPE, width of the rotary key beside the latent (the whole of it is rotated); even.
    attention_path
        How attention is computed, never what: ``"expanded"`` builds keys and values from all latents, ``"absorbed"``
        (outside training) reads the latents themselves, ``"auto"`` expands in training and prefill and absorbs in
        decoding.
    """

    model_type = "newllm-mla"

    kv_dim: int = 128
    rotary_dim: int = 16
    attention_path: str = "auto"
    position: PositionEncodingConfig | dict | str = "alibi"

    def __post_init__(self, **kwargs: Any) -> None:
        position = PositionEncodingConfig.parse(self.position)
        self.position = replace(position, rotary_fraction=1.0) if position.type == "rope" else position
        super().__post_init__(**kwargs)

    def validate_architecture(self) -> None:
        """Refuse shapes that no model can have, naming the field."""
        super().validate_architecture()
        self.refuse_head_groups()
        if self.kv_dim < 1:
            raise ValueError(f"kv_dim={self.kv_dim} must be at least 1")
        if self.rotary_dim < 2 or self.rotary_dim % 2:
            raise ValueError(f"rotary_dim={self.rotary_dim} must be even and at least 2")
        if self.attention_path not in ATTENTION_PATHS:
            raise ValueError(f"attention_path={self.attention_path!r} is unknown: choose one of {ATTENTION_PATHS}")


@register(
    "mla",
    lambda size: {"kv_dim": size.width // 4},
    summary="one compressed vector a token, in every layer, for keys and values of all heads",
)
class MLAPythiaModel(Decoder):
    """Pythia's blocks with multi-head latent attention."""

    config_class = MLAPythiaConfig
    attention = LatentAttention
