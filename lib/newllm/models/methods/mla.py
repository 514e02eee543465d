"""MLA-Pythia: one compressed vector a token and layer is cached, and keys and values are made from it."""

from dataclasses import replace
from typing import Any

import torch
from huggingface_hub.dataclasses import strict
from torch import Tensor, nn

from newllm.models.attention import Attention, attend
from newllm.models.config import ATTENTION_BIASES, LARGEST_SIZE, DecoderConfig
from newllm.models.decoder import Decoder
from newllm.models.position import ChosenPairsEncoding, PositionEncoding, PositionEncodingConfig
from newllm.models.projection import weight_of
from newllm.models.registry import Paper, register
from newllm.models.step import Step

# A quarter of a head at the 70m shape: as much as GPT-NeoX turns of each.
ROTARY_DIM = 16
ATTENTION_PATHS = ("auto", "absorbed", "expanded")


@strict
class MLAPythiaConfig(DecoderConfig):
    """Pythia's shape with latent attention.

    Attributes
    ----------
    kv_dim
        Width of the latent that is cached for each token and layer.
    kv_dims
        Widths of the latents of the layers, where they differ: a retrofit gives them out. Not a setting.
    key_dim
        Entries of a head's key that are made from the latent; None means as many as a value has. With RoPE it may be 0:
        then a key is its rotated part alone.
    rotary_dim
        With RoPE, and only then, width of the rotary key beside the latent (the whole of it is rotated); even.
    rotary_heads
        Rotary keys a token: 1 that all heads share, or one for each group of heads.
    rotary_pairs
        Which pairs of a head of another model the rotary keys are, by layer and rotary key (r / 2 numbers), where a
        retrofit took their frequencies over. Not a setting.
    rotary_width
        How many entries of that head were rotated; None means all of them. Not a setting.
    attention_biases
        Which linear maps of attention have a bias: ``none``, ``inputs`` (those that make queries and rotary keys), or
        ``all``. Others would change nothing: what a bias adds to an unrotated key is the same for all keys of a query,
        and drops out of the softmax; a bias of values passes into that of the last map.
    attention_path
        How attention is computed, never what: ``"expanded"`` builds keys and values from all latents, ``"absorbed"``
        (outside training) reads the latents themselves, ``"auto"`` expands in training and prefill and absorbs in
        decoding. Not a setting: see `MLAPythiaModel.attention_path`.
    """

    model_type = "newllm-mla"
    not_in_cache = DecoderConfig.not_in_cache | {"attention_path"}

    kv_dim: int = 128
    kv_dims: list[int] | None = None
    key_dim: int | None = None
    rotary_dim: int = ROTARY_DIM
    rotary_heads: int = 1
    rotary_pairs: list[list[list[int]]] | None = None
    rotary_width: int | None = None
    attention_biases: str = "none"
    attention_path: str = "auto"
    position: PositionEncodingConfig | dict | str = "alibi"

    not_settings = frozenset({"attention_path", "kv_dims", "rotary_pairs", "rotary_width"})

    def __post_init__(self, **kwargs: Any) -> None:
        # One way to say what is usual, so that equal models have equal configurations.
        if self.key_dim == self.hidden_size // max(1, self.num_attention_heads):
            self.key_dim = None
        super().__post_init__(**kwargs)

    def read_position(self, position: PositionEncodingConfig | dict | str) -> PositionEncodingConfig:
        """Read a position encoding; RoPE turns the whole of the rotary key, and ValueError is raised for a share of it.

        Parameters
        ----------
        position
            In any form that `PositionEncodingConfig.parse` accepts.
        """
        parsed = PositionEncodingConfig.parse(position)
        if parsed.type != "rope":
            return parsed
        given = position.get("rotary_fraction") if isinstance(position, dict) else None
        if given not in (None, 1.0) or parsed.rotary_fraction not in (PositionEncodingConfig.rotary_fraction, 1.0):
            raise ValueError(
                f"rotary_fraction={parsed.rotary_fraction} is not free, the whole of the rotary key is turned: leave "
                "it out, and set rotary_dim for another width"
            )
        return replace(parsed, rotary_fraction=1.0)

    def bias_of_attention(self) -> str:
        """Which linear maps of attention have a bias."""
        return self.attention_biases

    def latent_width(self, layer_index: int) -> int:
        """Width of the latents of a layer."""
        return self.kv_dim if self.kv_dims is None else self.kv_dims[layer_index]

    def build_rotary_position(self, layer_index: int) -> PositionEncoding:
        """Make the position encoding of a layer's rotary keys and of the queries for them."""
        if self.rotary_pairs is None:
            return self.build_position(self.rotary_dim)
        whole_width = self._width_of_pairs
        position = PositionEncodingConfig.parse(self.position)
        return ChosenPairsEncoding(position, self.rotary_pairs[layer_index], whole_width, self.num_attention_heads)

    @property
    def has_rotary_key(self) -> bool:
        """Whether a rotary key stands beside the latent."""
        return PositionEncodingConfig.parse(self.position).type == "rope"

    def validate_architecture(self) -> None:
        """Refuse shapes that no model can have, naming the field."""
        super().validate_architecture()
        self.require_positive("kv_dim", "rotary_dim")
        self.require_choice("attention_path", ATTENTION_PATHS)
        self.require_choice("attention_biases", ATTENTION_BIASES)
        if self.key_dim is not None and not (0 if self.has_rotary_key else 1) <= self.key_dim <= LARGEST_SIZE:
            raise ValueError(f"key_dim={self.key_dim} must be at least 1, or 0 where RoPE turns the whole of a key")
        if self.rotary_heads < 1 or self.num_attention_heads % self.rotary_heads:
            raise ValueError(
                f"rotary_heads={self.rotary_heads} must divide num_attention_heads={self.num_attention_heads}"
            )
        if self.kv_dims is not None and (len(self.kv_dims) != self.num_hidden_layers or min(self.kv_dims) < 1):
            raise ValueError(f"kv_dims={self.kv_dims} must be a width of 1 or more for each layer")
        if self.rotary_pairs is not None:
            self._check_pairs(self.rotary_pairs)
        elif self.rotary_width is not None:
            raise ValueError(f"rotary_width={self.rotary_width} does nothing without rotary_pairs: leave it out")
        if self.rotary_dim < 2 or self.rotary_dim % 2:
            raise ValueError(f"rotary_dim={self.rotary_dim} must be even and at least 2")
        for name, usual in (("rotary_dim", ROTARY_DIM), ("rotary_heads", 1), ("rotary_pairs", None)):
            if not self.has_rotary_key and getattr(self, name) != usual:
                raise ValueError(
                    f"{name}={getattr(self, name)} does nothing without RoPE: leave it out, or set position=rope"
                )

    @property
    def _width_of_pairs(self) -> int:
        """Entries of a head of the other model that were rotated."""
        return self.hidden_size // self.num_attention_heads if self.rotary_width is None else self.rotary_width

    def _check_pairs(self, pairs: list[list[list[int]]]) -> None:
        """Refuse pairs that are not those of each layer and rotary key, or that a head does not have."""
        whole = self._width_of_pairs // 2
        shapes = {(len(layer), len(key)) for layer in pairs for key in layer}
        expected = {(self.rotary_heads, self.rotary_dim // 2)}
        known = all(0 <= pair < whole for layer in pairs for key in layer for pair in key)
        if len(pairs) != self.num_hidden_layers or shapes != expected or not known:
            raise ValueError(
                f"rotary_pairs must be {self.rotary_dim // 2} numbers from 0 to {whole - 1} for each of "
                f"{self.num_hidden_layers} layers and {self.rotary_heads} rotary keys"
            )


class LatentAttention(Attention):
    """Attention of DeepSeek-V2 (2024, sec. 2.1), with queries left uncompressed and no norm on the latent.

    ``q = W_Q h``, ``c = W_DKV h``, ``K = W_UK c``, ``V = W_UV c``; ``c`` is cached. There are two ways to compute the
    same function:

    - *expanded*: K and V of all tokens are built from ``c``. Cheap where many queries share them.
    - *absorbed*: a head's score ``(W_Q h) . (W_UK c)`` is ``(W_UK^T W_Q h) . c``, and its output
      ``W_UV (sum of weights times c)``. All heads then read the latents themselves, as one shared head, and neither
      keys nor values of the past are ever built.

    RoPE does not commute with ``W_UK``. Under it a score has a second term instead, the product of a rotated query and
    a rotated key of width ``rotary_dim``, cached beside ``c``. One such key is shared by the heads, or there is one for
    each group of them: ``rotary_heads`` keys.

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
        self.key_dim = self.head_dim if config.key_dim is None else config.key_dim
        self.kv_dim = config.latent_width(layer_index)
        self.config = config
        self.position = config.build_rotary_position(layer_index)
        self.rotary_dim = config.rotary_dim if config.has_rotary_key else 0
        self.rotary_heads = config.rotary_heads
        self.scale = (self.key_dim + self.rotary_dim) ** -0.5
        width = config.hidden_size
        biases = config.bias_of_attention()
        bias_in = biases != "none"
        if self.key_dim:
            self.query = nn.Linear(width, self.num_heads * self.key_dim, bias=bias_in)
            self.expand_keys = nn.Linear(self.kv_dim, self.num_heads * self.key_dim, bias=False)
        self.compress = nn.Linear(width, self.kv_dim, bias=False)
        self.expand_values = nn.Linear(self.kv_dim, width, bias=False)
        self.dense = nn.Linear(width, width, bias=biases == "all")
        if self.rotary_dim:
            self.rotary_query = nn.Linear(width, self.num_heads * self.rotary_dim, bias=bias_in)
            self.rotary_key = nn.Linear(width, self.rotary_heads * self.rotary_dim, bias=bias_in)

    @property
    def cached_values_per_token(self) -> int:
        """Values kept for each token."""
        return self.kv_dim + self.rotary_heads * self.rotary_dim

    @property
    def shares_rotary_key(self) -> bool:
        """Whether all heads share one rotary key, so that it can stand in the latent's row and be read with it."""
        return self.rotary_heads == 1

    def forward(self, hidden: Tensor, step: Step) -> Tensor:
        """Attend from and to ``hidden`` (B, T, d); returns (B, T, d)."""
        # Called on one path and read on the other: what wraps it has to be refused on both.
        weight_of(self.expand_values)
        latents = self.compress(hidden)[:, None]
        queries = latents.new_empty(0)
        if self.key_dim:
            weight_of(self.expand_keys)
            queries = self._split_heads(self.query(hidden), self.num_heads)
        rotary_queries, rotary_keys = None, latents[..., :0]
        if self.rotary_dim:
            rotary_queries = self._split_heads(self.rotary_query(hidden), self.num_heads)
            rotary_queries = self.position.rotate(rotary_queries, step.positions)
            rotary_keys = self._split_heads(self.rotary_key(hidden), self.rotary_heads)
            rotary_keys = self.position.rotate(rotary_keys, step.positions)
            if self.shares_rotary_key:
                latents = torch.cat([latents, rotary_keys], dim=-1)
                rotary_keys = latents[..., :0]
        if step.cache is not None:
            # One stock cache layer: the latents of one shared head as keys; as values the rotary keys of several heads,
            # or nothing.
            latents, rotary_keys = step.cache.update(latents, rotary_keys, self.layer_index)
        attend_to = self._absorbed if self._absorbs(step) else self._expanded
        output = attend_to(queries, rotary_queries, latents, rotary_keys, step)
        return self.dense(output.transpose(1, 2).flatten(2))

    def _absorbs(self, step: Step) -> bool:
        """Whether this call takes the absorbed path."""
        if self.config.attention_path != "auto":
            return self.config.attention_path == "absorbed" and not self.training
        # Expanding S latents takes S kv_dim d_h multiplications a head for K, as many for V; absorbing makes each of
        # the T x S products kv_dim instead of d_h wide. T where the two are equal divides the paths.
        return step.past_length > 0 and step.length * (self.kv_dim - self.head_dim) < self.kv_dim * self.head_dim

    def _expanded(
        self, queries: Tensor, rotary_queries: Tensor | None, latents: Tensor, rotary_keys: Tensor, step: Step
    ) -> Tensor:
        """(B, H, T, d_h) with keys and values built.

        Parameters
        ----------
        queries
            (B, H, T, key_dim); empty where that is 0.
        rotary_queries
            (B, H, T, rotary_dim).
        latents
            (B, 1, S, kv_dim), a shared rotary key behind each.
        rotary_keys
            Those of several heads (B, rotary_heads, S, rotary_dim); without width otherwise.
        step
            What is known of the tokens.
        """
        compressed, shared = latents.split([self.kv_dim, latents.shape[-1] - self.kv_dim], dim=-1)
        keys = [] if not self.key_dim else [self._split_heads(self.expand_keys(compressed[:, 0]), self.num_heads)]
        values = self._split_heads(self.expand_values(compressed[:, 0]), self.num_heads)
        asked = [queries] if self.key_dim else []
        if rotary_queries is not None:
            asked.append(rotary_queries)
            turned = shared if self.shares_rotary_key else rotary_keys
            keys.append(turned.repeat_interleave(self.num_heads // turned.shape[1], dim=1))
        return attend(_side_by_side(asked), _side_by_side(keys), values, step, self.position, self.scale)

    def _absorbed(
        self, queries: Tensor, rotary_queries: Tensor | None, latents: Tensor, rotary_keys: Tensor, step: Step
    ) -> Tensor:
        """Compute what `_expanded` does on the latents themselves."""
        if self.key_dim:
            queries = queries @ weight_of(self.expand_keys).view(self.num_heads, self.key_dim, self.kv_dim)
        if rotary_queries is not None and not self.shares_rotary_key:
            weighted = self._weigh(queries, rotary_queries, latents, rotary_keys, step)
        else:
            if rotary_queries is not None:
                # A key without an unrotated part takes nothing from the latent.
                from_latent = (
                    queries if self.key_dim else rotary_queries.new_zeros(*rotary_queries.shape[:3], self.kv_dim)
                )
                queries = torch.cat([from_latent, rotary_queries], dim=-1)
            # What stands beside c in a latent is weighted too, and dropped: fused kernels want values as wide as keys.
            weighted = attend(queries, latents, latents, step, self.position, self.scale)[..., : self.kv_dim]
        return weighted @ weight_of(self.expand_values).view(self.num_heads, self.head_dim, self.kv_dim).mT

    def _weigh(
        self, queries: Tensor, rotary_queries: Tensor, latents: Tensor, rotary_keys: Tensor, step: Step
    ) -> Tensor:
        """Weighted sums of latents (B, H, T, kv_dim), where heads have rotary keys of their own; copies no latent."""
        by_key = rotary_queries.unflatten(1, (self.rotary_heads, -1)).flatten(2, 3)
        scores = (by_key @ rotary_keys.mT).view(*rotary_queries.shape[:3], -1)
        if self.key_dim:
            scores = scores + (queries.flatten(1, 2) @ latents[:, 0].mT).view_as(scores)
        weights = (scores * self.scale + step.explicit_bias(self.position, scores.dtype)).softmax(-1)
        return (weights.flatten(1, 2) @ latents[:, 0]).unflatten(1, scores.shape[1:3])

    @staticmethod
    def _split_heads(states: Tensor, heads: int) -> Tensor:
        """(B, T, heads w) -> (B, heads, T, w)."""
        return states.unflatten(-1, (heads, -1)).transpose(1, 2)


def _side_by_side(parts: list[Tensor]) -> Tensor:
    """Join parts along their last dimension; a single part is not copied."""
    return parts[0] if len(parts) == 1 else torch.cat(parts, dim=-1)


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
