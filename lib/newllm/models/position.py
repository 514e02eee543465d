"""Position encodings: one strategy class each, chosen by `PositionEncodingConfig`.

A strategy has two hooks: `PositionEncoding.rotate` acts on queries and keys, `PositionEncoding.score_bias`
is added to the attention scores. A new encoding is a subclass with a ``type``; nothing else changes.
"""

import math
from dataclasses import asdict, dataclass, fields, replace
from typing import Any, ClassVar

import torch
from torch import Tensor

# Angles and biases are computed in it, whatever the model's dtype.
COMPUTED_IN = torch.finfo(torch.float32)


@dataclass(frozen=True)
class PositionEncodingConfig:
    """Which encoding a model uses, as it stands in its ``config.json``.

    Attributes
    ----------
    type
        ``"rope"``, ``"alibi"`` or ``"none"``.
    rotary_fraction
        Share of each head that RoPE rotates (GPT-NeoX: a quarter).
    rotary_base
        Base of the RoPE wavelengths.
    alibi_slope
        ALiBi's slope m, one for all heads.
    alibi_slopes_by_head
        Use the geometric slopes of the ALiBi paper instead, one a head.
    """

    type: str = "rope"
    rotary_fraction: float = 0.25
    rotary_base: float = 10000.0
    alibi_slope: float = 0.0625
    alibi_slopes_by_head: bool = False

    def __post_init__(self) -> None:
        for field in fields(self):
            # A truth value or a text in the place of a number would be computed with: any text is true.
            object.__setattr__(self, field.name, _read_as(type(field.default), field.name, getattr(self, field.name)))
        allowed = sorted(ENCODINGS)
        if self.type not in allowed:
            raise ValueError(f"position encoding type={self.type!r} is unknown: choose one of {allowed}")
        if not 0 < self.rotary_fraction <= 1:
            raise ValueError(f"rotary_fraction={self.rotary_fraction} must lie in (0, 1]")
        if not 1 + COMPUTED_IN.eps <= self.rotary_base <= COMPUTED_IN.max:
            raise ValueError(
                f"rotary_base={self.rotary_base} must be a number larger than 1, and finite, as float32 holds it"
            )
        unused = [
            name
            for name, field in type(self).__dataclass_fields__.items()
            if name not in {"type", *ENCODINGS[self.type].settings} and getattr(self, name) != field.default
        ]
        if unused:
            raise ValueError(
                f"{unused[0]}={getattr(self, unused[0])} does nothing under the position encoding {self.type!r}: "
                "leave it out"
            )
        if self.alibi_slopes_by_head and self.alibi_slope != type(self).alibi_slope:
            raise ValueError(f"alibi_slope={self.alibi_slope} does nothing beside alibi_slopes_by_head: leave one out")
        if not 0 <= self.alibi_slope <= COMPUTED_IN.max:
            raise ValueError(
                f"alibi_slope={self.alibi_slope} must be a number that float32 holds, and not negative: a negative "
                "slope favours far tokens"
            )

    @classmethod
    def parse(
        cls, value: "PositionEncodingConfig | dict[str, Any] | str", rotary_fraction: float | None = None
    ) -> "PositionEncodingConfig":
        """Accept a config, its dictionary (as ``config.json`` holds it), or just the type's name.

        Parameters
        ----------
        value
            What is accepted.
        rotary_fraction
            Share of a head that RoPE turns where the value does not say; None stands for GPT-NeoX's.
        """
        if isinstance(value, cls):
            return value
        if isinstance(value, str):
            value = {"type": value}
        if isinstance(value, dict):
            unknown = set(value) - set(cls.__dataclass_fields__)
            if unknown:
                raise ValueError(
                    f"position encoding has no setting {sorted(unknown)}: "
                    f"allowed are {sorted(cls.__dataclass_fields__)}"
                )
            if rotary_fraction is not None and value.get("type", cls.type) == RotaryEncoding.type:
                value = {"rotary_fraction": rotary_fraction, **value}
            return cls(**value)
        raise ValueError(f"position={value!r} must be one of {sorted(ENCODINGS)}, or a PositionEncodingConfig")

    @classmethod
    def settings(cls) -> frozenset[str]:
        """Names of the fields beside the type, by which users set them one by one."""
        return frozenset(cls.__dataclass_fields__) - {"type"}

    @classmethod
    def combine(cls, value: "PositionEncodingConfig | dict[str, Any] | str", given: dict[str, Any]) -> dict[str, Any]:
        """Put single settings into an encoding, in any form that `parse` accepts; returns its dictionary."""
        if isinstance(value, dict):
            return {**value, **given}
        whole = cls.parse(value)
        defaults = cls(type=whole.type).to_dict()
        # What only says the default again would be refused where another encoding has no such setting.
        changed = {name: item for name, item in whole.to_dict().items() if item != defaults[name]}
        return {"type": whole.type, **changed, **given}

    def in_whole_pairs(self, head_dim: int, usual: float) -> "PositionEncodingConfig":
        """Return the encoding with the share of a head that RoPE turns, so that what turns alike is equal.

        Parameters
        ----------
        head_dim
            Width of a head.
        usual
            The share that says it where as many entries are turned: published models have it, whether it is pairs or
            not.
        """
        turned = turned_entries(head_dim, self.rotary_fraction)
        if self.type != RotaryEncoding.type or head_dim < 2:
            return self
        if turned == turned_entries(head_dim, usual):
            return replace(self, rotary_fraction=usual)
        share = turned / head_dim
        # Dividing and multiplying again may come out a last digit below.
        share = share if turned_entries(head_dim, share) == turned else math.nextafter(share, 1.0)
        return replace(self, rotary_fraction=share)

    def to_dict(self) -> dict[str, Any]:
        """Return the plain dictionary that ``config.json`` holds."""
        return asdict(self)

    def build(self, head_dim: int, num_heads: int) -> "PositionEncoding":
        """Make the strategy for heads of width ``head_dim``."""
        return ENCODINGS[self.type](self, head_dim, num_heads)


def _read_as(kind: type, name: str, value: Any) -> Any:
    """Return a setting as that type, whole numbers as floats; ValueError for whatever else."""
    if kind is bool and not isinstance(value, bool):
        raise ValueError(f"{name}={value!r} must be true or false")
    if kind is not float:
        return value
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise ValueError(f"{name}={value!r} must be a number")
    try:
        return float(value)
    except OverflowError:
        raise ValueError(f"{name} must be a number that float32 holds, not one of hundreds of digits") from None


class PositionEncoding:
    """The identity encoding, and the interface of all others. Holds no tensors, so nothing can be lost on loading."""

    type: ClassVar[str] = "none"
    # Fields of the config that it reads.
    settings: ClassVar[frozenset[str]] = frozenset()
    # Entries of a head, the first ones, that depend on the position.
    rotary_dim: int = 0

    def __init__(self, config: PositionEncodingConfig, head_dim: int, num_heads: int) -> None:
        self.config = config
        self.head_dim = head_dim
        self.num_heads = num_heads

    def rotate(self, states: Tensor, positions: Tensor) -> Tensor:
        """Encode positions (B, T) into queries or keys (B, heads, T, head_dim)."""
        return states

    def score_bias(self, query_positions: Tensor, key_positions: Tensor, dtype: torch.dtype) -> Tensor | None:
        """Bias (B, 1 or heads, T, S) for queries at (B, T) and keys at (B, S); None where there is none."""
        return None

    def bias_columns(self, like: Tensor, scale: float) -> tuple[Tensor, Tensor] | None:
        """Write the bias of causal attention as further columns of queries and keys, so that no (T, T) tensor exists.

        Parameters
        ----------
        like
            Keys at consecutive positions (B, heads, T, head_dim), whose dtype and device the columns have.
        scale
            Factor on the scores, which the columns' products are to pass through.

        Returns
        -------
        tuple of Tensor or None
            Columns of queries (1 or heads, 1, c) and of keys (T, c), whose products differ from the bias by what is the
            same for all keys of a query; None where the bias cannot be written so.
        """
        return None


def turned_entries(head_dim: int, rotary_fraction: float) -> int:
    """Entries of a head that RoPE turns: pairs, so an odd share is rounded down (but never to nothing)."""
    return max(2, int(head_dim * rotary_fraction) // 2 * 2)


class RotaryEncoding(PositionEncoding):
    """RoPE (Su et al. 2021, eq. 34) on the first part of each head, in the half-split form of GPT-NeoX."""

    type = "rope"
    settings = frozenset({"rotary_fraction", "rotary_base"})

    def __init__(self, config: PositionEncodingConfig, head_dim: int, num_heads: int) -> None:
        super().__init__(config, head_dim, num_heads)
        if head_dim < 2:
            raise ValueError(f"heads of width {head_dim} are too narrow for RoPE, which turns pairs: take fewer heads")
        self.rotary_dim = turned_entries(head_dim, config.rotary_fraction)

    def exponents(self, heads: int, device: torch.device) -> Tensor:
        """Exponents of the base, one a pair: (rotary_dim / 2,), or (heads, 1, rotary_dim / 2) where heads differ."""
        return torch.arange(0, self.rotary_dim, 2, dtype=torch.float32, device=device) / self.rotary_dim

    def rotate(self, states: Tensor, positions: Tensor) -> Tensor:
        """Rotate the first ``rotary_dim`` entries of each head by position times frequency."""
        half = self.rotary_dim // 2
        # Angles in float32 whatever the model's dtype, as GPT-NeoX computes them: bfloat16 cannot count positions.
        exponents = self.exponents(states.shape[1], states.device)
        angles = positions[:, None, :, None].float() * (1.0 / self.config.rotary_base**exponents)
        cos, sin = angles.cos().to(states.dtype), angles.sin().to(states.dtype)
        first, second, rest = states.split([half, half, states.shape[-1] - self.rotary_dim], dim=-1)
        return torch.cat([first * cos - second * sin, second * cos + first * sin, rest], dim=-1)


class ChosenPairsEncoding(RotaryEncoding):
    """RoPE with some of the frequencies of a wider head, chosen for each key head.

    Parameters
    ----------
    config
        Its base is that of the wider head.
    pairs
        Which pairs of the wider head are turned, for each key head (G, r / 2).
    whole_width
        Width of the wider head.
    num_heads
        Query heads H, which the key heads share out in order.
    """

    def __init__(
        self, config: PositionEncodingConfig, pairs: list[list[int]], whole_width: int, num_heads: int
    ) -> None:
        super().__init__(config, 2 * len(pairs[0]), num_heads)
        self.pairs = pairs
        self.whole_width = whole_width

    def exponents(self, heads: int, device: torch.device) -> Tensor:
        """Exponents of the base (heads, 1, r / 2), for query heads or key heads."""
        chosen = torch.tensor(self.pairs, device=device).repeat_interleave(heads // len(self.pairs), dim=0)
        return (2 * chosen[:, None]).float() / self.whole_width


class AlibiEncoding(PositionEncoding):
    """ALiBi (Press et al. 2022, sec. 3): score - m (i - j), with one slope for all heads or a slope for each."""

    type = "alibi"
    settings = frozenset({"alibi_slope", "alibi_slopes_by_head"})

    def slopes(self, device: torch.device) -> Tensor:
        """Slopes (1,) or (heads,), in float32."""
        if not self.config.alibi_slopes_by_head:
            return torch.tensor([self.config.alibi_slope], device=device)
        exponents = torch.arange(1, self.num_heads + 1, device=device, dtype=torch.float32)
        return 2.0 ** (-8.0 * exponents / self.num_heads)

    def score_bias(self, query_positions: Tensor, key_positions: Tensor, dtype: torch.dtype) -> Tensor | None:
        """Minus slope times distance, from absolute positions, so that cache, padding and chunks all see it."""
        distance = (query_positions[:, :, None] - key_positions[:, None, :]).abs().to(dtype)
        return -self.slopes(distance.device).to(dtype)[None, :, None, None] * distance[:, None]

    def bias_columns(self, like: Tensor, scale: float) -> tuple[Tensor, Tensor] | None:
        """``-m (i - j)`` is ``m j`` but for ``-m i``, which the softmax takes out: the key's position times the slope.

        A position has two digits, as bfloat16 counts no further than 256. Scores are as large as the slope times the
        length, and rounded as such: by 2^-11 in float32 at a slope of 1/2 and 16,384 tokens.
        """
        positions = torch.arange(like.shape[-2], device=like.device)
        keys = torch.stack([positions // DIGIT_BASE, positions % DIGIT_BASE], dim=-1)
        queries = torch.tensor([[DIGIT_BASE, 1.0]], device=like.device, dtype=torch.float64)
        return (queries * self.slopes(like.device)[:, None, None] / scale).to(like.dtype), keys.to(like.dtype)


# Both digits of a position are exact in bfloat16 up to 65,536 tokens.
DIGIT_BASE = 256

ENCODINGS: dict[str, type[PositionEncoding]] = {
    encoding.type: encoding for encoding in (PositionEncoding, RotaryEncoding, AlibiEncoding)
}


def causal_mask(query_length: int, key_length: int, dtype: torch.dtype, device: torch.device | str = "cpu") -> Tensor:
    """Additive mask (T, S): 0 where a key is no later than the query, else -inf; the last query is the last key."""
    future = torch.full((query_length, key_length), -math.inf, dtype=dtype, device=device)
    return future.triu(key_length - query_length + 1)


def build_alibi_bias_causal(seq_len: int, slope: float) -> Tensor:
    """ALiBi bias and causal mask of one sequence.

    Parameters
    ----------
    seq_len
        Number of tokens T.
    slope
        ALiBi's slope m.

    Returns
    -------
    Tensor
        (T, T), rows are queries i and columns keys j: -m (i - j) below the diagonal, 0 on it, -inf above it.
    """
    encoding = PositionEncodingConfig(type="alibi", alibi_slope=slope).build(head_dim=1, num_heads=1)
    positions = torch.arange(seq_len)[None]
    bias = encoding.score_bias(positions, positions, torch.float32)
    assert bias is not None
    return bias[0, 0] + causal_mask(seq_len, seq_len, torch.float32)
