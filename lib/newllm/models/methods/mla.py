"""MLA-Pythia: one compressed vector a token and layer is cached, and keys and values are made from it."""

from dataclasses import replace
from typing import Any

import torch
from huggingface_hub.dataclasses import strict
from torch import Tensor, nn

from newllm.models.attention import Attention, attend
from newllm.models.config import DecoderConfig
from newllm.models.decoder import Decoder
from newllm.models.position import PositionEncodingConfig
from newllm.models.projection import weight_of
from newllm.models.registry import Paper, register
from newllm.models.step import Step

# A quarter of a head at the 70m shape: as much as GPT-NeoX turns of each.
ROTARY_DIM = 16
ATTENTION_PATHS = ("auto", "absorbed", "expanded")


def _with_whole_rotary_key(position: PositionEncodingConfig | dict | str) -> PositionEncodingConfig:
    """Read a position encoding; RoPE turns the whole of the rotary key, and ValueError is raised for a share of it."""
    parsed = PositionEncodingConfig.parse(position)
    if parsed.type != "rope":
        return parsed
    given = position.get("rotary_fraction") if isinstance(position, dict) else None
    if given not in (None, 1.0) or parsed.rotary_fraction not in (PositionEncodingConfig.rotary_fraction, 1.0):
        raise ValueError(
            f"rotary_fraction={parsed.rotary_fraction} is not free, the whole of the rotary key is turned: leave it "
            "out, and set rotary_dim for another width"
        )
    return replace(parsed, rotary_fraction=1.0)


@strict
class MLAPythiaConfig(DecoderConfig):
    """Pythia's shape with latent attention.

    Attributes
    ----------
    kv_dim
        Width of the latent that is cached for each token and layer.
    rotary_dim
        With RoPE, and only then, width of the rotary key beside the latent (the whole of it is rotated); even.
    attention_path
        How attention is computed, never what: ``"expanded"`` builds keys and values from all latents, ``"absorbed"``
        (outside training) reads the latents themselves, ``"auto"`` expands in training and prefill and absorbs in
        decoding. Not a setting: see `MLAPythiaModel.attention_path`.
    """

    model_type = "newllm-mla"
    not_in_cache = DecoderConfig.not_in_cache | {"attention_path"}

    kv_dim: int = 128
    rotary_dim: int = ROTARY_DIM
    attention_path: str = "auto"
    position: PositionEncodingConfig | dict | str = "alibi"

    not_settings = frozenset({"attention_path"})

    def __post_init__(self, **kwargs: Any) -> None:
        self.position = _with_whole_rotary_key(self.position)
        super().__post_init__(**kwargs)

    @property
    def has_rotary_key(self) -> bool:
        """Whether a rotary key stands beside the latent."""
        return PositionEncodingConfig.parse(self.position).type == "rope"

    def validate_architecture(self) -> None:
        """Refuse shapes that no model can have, naming the field."""
        super().validate_architecture()
        self.require_positive("kv_dim", "rotary_dim")
        self.require_choice("attention_path", ATTENTION_PATHS)
        if self.rotary_dim < 2 or self.rotary_dim % 2:
            raise ValueError(f"rotary_dim={self.rotary_dim} must be even and at least 2")
        if not self.has_rotary_key and self.rotary_dim != ROTARY_DIM:
            raise ValueError(
                f"rotary_dim={self.rotary_dim} does nothing without RoPE: leave it out, or set position=rope"
            )


class LatentAttention(Attention):
    """Attention of DeepSeek-V2 (2024, sec. 2.1), with queries left uncompressed and no norm on the latent.

    ``q = W_Q h``, ``c = W_DKV h``, ``K = W_UK c``, ``V = W_UV c``, without biases; ``c`` is cached. There are two ways
    to compute the same function:

    - *expanded*: K and V of all tokens are built from ``c``. Cheap where many queries share them.
    - *absorbed*: a head's score ``(W_Q h) . (W_UK c)`` is ``(W_UK^T W_Q h) . c``, and its output
      ``W_UV (sum of weights times c)``. All heads then read the latents themselves, as one shared head, and neither
      keys nor values of the past are ever built.

    RoPE does not commute with ``W_UK``. Under it a score has a second term instead, the product of a rotated query and
    a rotated key of width ``rotary_dim``; that key is shared by the heads and cached beside ``c``.

    Parameters
    ----------
    config
        Of the model.
    layer_index
        Place in the cache.
    """

    def __init__(self, config: "MLAPythiaConfig", layer_index: int) -> None:
        super().__init__(config, layer_index)
        self.num_heads = config.num_attention_heads
        self.head_dim = config.hidden_size // config.num_attention_heads
        self.kv_dim = config.kv_dim
        self.config = config
        self.position = config.build_position(config.rotary_dim)
        self.rotary_dim = config.rotary_dim if config.has_rotary_key else 0
        self.scale = (self.head_dim + self.rotary_dim) ** -0.5
        width = config.hidden_size
        self.query = nn.Linear(width, width, bias=False)
        self.compress = nn.Linear(width, self.kv_dim, bias=False)
        self.expand_keys = nn.Linear(self.kv_dim, width, bias=False)
        self.expand_values = nn.Linear(self.kv_dim, width, bias=False)
        self.dense = nn.Linear(width, width, bias=False)
        if self.rotary_dim:
            self.rotary_query = nn.Linear(width, self.num_heads * self.rotary_dim, bias=False)
            self.rotary_key = nn.Linear(width, self.rotary_dim, bias=False)

    @property
    def cached_values_per_token(self) -> int:
        """Values kept for each token."""
        return self.kv_dim + self.rotary_dim

    def forward(self, hidden: Tensor, step: Step) -> Tensor:
        """Attend from and to ``hidden`` (B, T, d); returns (B, T, d)."""
        for expansion in (self.expand_keys, self.expand_values):
            # Called on one path and read on the other: what wraps it has to be refused on both.
            weight_of(expansion)
        queries = self._split_heads(self.query(hidden))
        latents = self.compress(hidden)[:, None]
        rotary_queries = None
        if self.rotary_dim:
            rotary_queries = self.position.rotate(self._split_heads(self.rotary_query(hidden)), step.positions)
            rotary_keys = self.position.rotate(self.rotary_key(hidden)[:, None], step.positions)
            latents = torch.cat([latents, rotary_keys], dim=-1)
        if step.cache is not None:
            # One stock cache layer: the latents of one shared head as keys, and values without width.
            latents, _ = step.cache.update(latents, latents[..., :0], self.layer_index)
        attend_to = self._absorbed if self._absorbs(step) else self._expanded
        output = attend_to(queries, rotary_queries, latents, step)
        return self.dense(output.transpose(1, 2).flatten(2))

    def _absorbs(self, step: Step) -> bool:
        """Whether this call takes the absorbed path."""
        if self.config.attention_path != "auto":
            return self.config.attention_path == "absorbed" and not self.training
        # Expanding S latents takes S kv_dim d_h multiplications a head for K, as many for V; absorbing makes each of
        # the T x S products kv_dim instead of d_h wide. T where the two are equal divides the paths.
        return step.past_length > 0 and step.length * (self.kv_dim - self.head_dim) < self.kv_dim * self.head_dim

    def _expanded(self, queries: Tensor, rotary_queries: Tensor | None, latents: Tensor, step: Step) -> Tensor:
        """(B, H, T, d_h) from queries of that shape and latents (B, 1, S, kv_dim + rotary_dim): K and V are built."""
        compressed, rotary_keys = latents.split([self.kv_dim, self.rotary_dim], dim=-1)
        keys = self._split_heads(self.expand_keys(compressed[:, 0]))
        values = self._split_heads(self.expand_values(compressed[:, 0]))
        if rotary_queries is not None:
            queries = torch.cat([queries, rotary_queries], dim=-1)
            keys = torch.cat([keys, rotary_keys.expand(-1, self.num_heads, -1, -1)], dim=-1)
        return attend(queries, keys, values, step, self.position, self.scale)

    def _absorbed(self, queries: Tensor, rotary_queries: Tensor | None, latents: Tensor, step: Step) -> Tensor:
        """Compute what `_expanded` does on the latents themselves."""
        by_head = (self.num_heads, self.head_dim, self.kv_dim)
        queries = queries @ weight_of(self.expand_keys).view(by_head)
        if rotary_queries is not None:
            queries = torch.cat([queries, rotary_queries], dim=-1)
        # What stands beside c in a latent is weighted too, and dropped: fused kernels want values as wide as keys.
        weighted = attend(queries, latents, latents, step, self.position, self.scale)[..., : self.kv_dim]
        return weighted @ weight_of(self.expand_values).view(by_head).mT

    def _split_heads(self, states: Tensor) -> Tensor:
        """(B, T, H w) -> (B, H, T, w)."""
        return states.unflatten(-1, (self.num_heads, -1)).transpose(1, 2)


@register(
    "mla",
    lambda size: {"kv_dim": size.width // 4},
    summary="one compressed vector a token, in every layer, for keys and values of all heads",
    papers=(Paper("DeepSeek-AI", 2024, "https://arxiv.org/abs/2405.04434"),),
)
class MLAPythiaModel(Decoder):
    """Pythia's blocks with multi-head latent attention."""

    config_class = MLAPythiaConfig
    attention = LatentAttention

    @property
    def attention_path(self) -> str:
        """How attention is computed, never what: ``auto``, ``absorbed`` or ``expanded``."""
        return self.config.attention_path

    @attention_path.setter
    def attention_path(self, path: str) -> None:
        if path not in ATTENTION_PATHS:
            raise ValueError(f"attention_path={path!r} is unknown: choose one of {', '.join(ATTENTION_PATHS)}")
        self.config.attention_path = path
