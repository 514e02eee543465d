"""Context-Pythia: every layer's attention reads one context, so that is all the cache keeps of a token."""

from typing import Any, cast

import torch
import torch.nn.functional as F
from huggingface_hub.dataclasses import strict
from torch import Tensor, nn
from torch.func import functional_call
from transformers.cache_utils import CacheLayerMixin, DynamicLayer

from newllm.models.attention import Attention, attend
from newllm.models.config import DecoderConfig, round_to_heads
from newllm.models.decoder import Decoder
from newllm.models.position import causal_mask
from newllm.models.projection import weight_of
from newllm.models.recurrent import RecurrentModel
from newllm.models.registry import register
from newllm.models.step import Step


@strict
class ContextPythiaConfig(DecoderConfig):
    """A decoder of width ``hidden_size`` over contexts of width ``proj_dim``.

    Attributes
    ----------
    proj_dim
        Width P of a context; rounded up to a multiple of the heads.
    """

    model_type = "newllm-context"

    proj_dim: int = 256

    def __post_init__(self, **kwargs: Any) -> None:
        self.proj_dim = round_to_heads(self.proj_dim, self.num_attention_heads)
        super().__post_init__(**kwargs)


class SharedContextAttention(Attention):
    """Queries, keys and values of H heads, all read from contexts of width P that the model keeps once.

    Few new tokens are scored against the contexts themselves, with the weights of keys and values absorbed into queries
    and outputs (DeepSeek-AI 2024, sec. 2.1.2); only the entries of a key that carry its position are rebuilt.

    Parameters
    ----------
    config
        Its ``proj_dim`` is P.
    layer_index
        Number of the block.
    """

    def __init__(self, config: "ContextPythiaConfig", layer_index: int) -> None:
        super().__init__(config, layer_index)
        self.num_heads = config.num_attention_heads
        self.head_dim = config.hidden_size // config.num_attention_heads
        self.scale = self.head_dim**-0.5
        self.position = config.build_position(self.head_dim)
        self.query_key_value = nn.Linear(config.proj_dim, 3 * config.hidden_size)
        self.dense = nn.Linear(config.hidden_size, config.hidden_size)

    @property
    def cached_values_per_token(self) -> int:
        """None of its own: the model keeps the contexts for all blocks."""
        return 0

    def read(self, source: Tensor, norm: nn.Module, step: Step) -> Tensor:
        """Attend to contexts that are normed but for the block's own gain and bias, which become part of the weights.

        So the past is normed once for all blocks, and no block makes a copy of it.
        """
        return self(source, step, norm)

    def forward(self, hidden: Tensor, step: Step, norm: nn.Module) -> Tensor:  # type: ignore[override]
        """Attend from the last T of the contexts (B, S, P), normed without gain, to all of them; returns (B, T, d)."""
        gain, shift = _gain_and_bias(norm)
        own = hidden[:, -step.length :] * gain + shift
        weight, bias = self._parts()
        queries = F.linear(own, weight[:, 0].flatten(0, 1), bias[:, 0].flatten())
        queries = self.position.rotate(self._split_heads(queries), step.positions)
        # Expanding costs S x P x 2 d multiplications, absorbing S x P x 2 H a new token.
        absorbs = step.length < self.head_dim
        output = (self.absorbed if absorbs else self.expanded)(queries, hidden, step, gain, shift)
        return self.dense(output.transpose(1, 2).flatten(2))

    def expanded(self, queries: Tensor, contexts: Tensor, step: Step, gain: Tensor, shift: Tensor) -> Tensor:
        """Attend with keys and values of all S contexts rebuilt: (B, H, T, d_h) and (B, S, P) -> (B, H, T, d_h)."""
        keys, values = (self._rebuild(contexts, part, self.head_dim, gain, shift) for part in (1, 2))
        keys = self.position.rotate(keys, step.key_positions)
        return attend(queries, keys, values, step, self.position, self.scale)

    def absorbed(self, queries: Tensor, contexts: Tensor, step: Step, gain: Tensor, shift: Tensor) -> Tensor:
        """Attend to the contexts themselves; same as `expanded`."""
        length = queries.shape[2]
        rotary = self.position.rotary_dim
        weight, bias = self._parts()
        # A bias of the unrotated key entries adds the same to all scores of a query, so it drops out of the softmax.
        absorbed = queries[..., rotary:] @ weight[:, 1, rotary:] * gain
        if rotary and length == 1:
            scores = self._scores_of_one(queries[..., :rotary], absorbed, contexts, step, gain, shift)
        else:
            # Many rows times few columns: twice as fast as few rows times many columns.
            scores = (contexts @ absorbed.flatten(1, 2).transpose(1, 2)).transpose(1, 2).contiguous()
            scores = scores.unflatten(1, (self.num_heads, length))
            if rotary:
                keys = self.position.rotate(self._rebuild(contexts, 1, rotary, gain, shift), step.key_positions)
                scores = scores + queries[..., :rotary] @ keys.transpose(2, 3)
        scores = scores * self.scale
        mask = step.attention_bias(self.position, queries.dtype)
        if mask is None and length > 1:
            mask = causal_mask(length, length, queries.dtype, queries.device)
        if mask is not None:
            scores = scores + mask
        mixed = scores.softmax(-1).flatten(1, 2) @ contexts * gain + shift
        mixed = mixed.unflatten(1, (self.num_heads, length))
        return mixed @ weight[:, 2].transpose(1, 2) + bias[:, 2, None]

    def _scores_of_one(
        self, queries: Tensor, absorbed: Tensor, contexts: Tensor, step: Step, gain: Tensor, shift: Tensor
    ) -> Tensor:
        """Scores (B, H, 1, S) of one query a head, no key rotated and the contexts read once.

        A pair of query entries (a, b) and of key entries (k, l), at angle x, score
        ``cos x (a k + b l) + sin x (b k - a l)``. The sums are linear in the context, so they are made of it directly,
        and beside them what the unrotated entries score, at whatever angle.

        Parameters
        ----------
        queries
            Their rotated entries (B, H, 1, r).
        absorbed
            Their others, with the weights of keys absorbed (B, H, 1, P).
        contexts, step, gain, shift
            As for `absorbed`.
        """
        rotary = queries.shape[-1]
        weight, bias = self._parts()
        folded = weight[:, 1, :rotary] * gain
        offset = bias[:, 1, :rotary] + weight[:, 1, :rotary] @ shift
        # (B, H, r / 2, 1) and (H, r / 2, P + 1), the bias as one more column.
        first, second = queries.transpose(2, 3).chunk(2, dim=2)
        keys, other_keys = torch.cat([folded, offset[..., None]], dim=-1).chunk(2, dim=1)
        turned = (first * keys + second * other_keys, second * keys - first * other_keys)
        sums = torch.cat([*turned, F.pad(absorbed, (0, 1))], dim=2).flatten(1, 2)
        parts = torch.baddbmm(sums[:, None, :, -1], contexts, sums[..., :-1].transpose(1, 2))
        turns = step.once(("turns", id(self.position.config)), lambda: self._turns(step, queries.dtype))
        scores = parts.unflatten(2, (self.num_heads, rotary + 1)) @ turns[..., None]
        return scores.permute(0, 2, 3, 1)

    def _turns(self, step: Step, dtype: torch.dtype) -> Tensor:
        """Cosine and sine of all key positions, as what becomes of pairs (1, 0) that are rotated, and a one.

        Of shape (B or 1, S, r + 1).
        """
        rotary = self.position.rotary_dim
        pairs = torch.zeros(rotary + 1, dtype=dtype, device=step.key_positions.device)
        pairs[: rotary // 2] = pairs[rotary] = 1
        rows, total = step.key_positions.shape
        return self.position.rotate(pairs.expand(rows, 1, total, rotary + 1), step.key_positions)[:, 0]

    def _rebuild(self, contexts: Tensor, part: int, width: int, gain: Tensor, shift: Tensor) -> Tensor:
        """First ``width`` entries of keys (part 1) or values (part 2) of contexts (B, S, P): (B, H, S, width)."""
        weight, bias = (stacked[:, part, :width].flatten(0, 1) for stacked in self._parts())
        return self._split_heads(F.linear(contexts, weight * gain, bias + weight @ shift))

    def _parts(self) -> tuple[Tensor, Tensor]:
        """Weight (H, 3, d_h, P) and bias (H, 3, d_h): each head holds its query, its key, its value, as in GPT-NeoX."""
        shape = (self.num_heads, 3, self.head_dim)
        return weight_of(self.query_key_value).view(*shape, -1), self.query_key_value.bias.view(shape)

    def _split_heads(self, states: Tensor) -> Tensor:
        """(B, T, H w) -> (B, H, T, w)."""
        return states.unflatten(2, (self.num_heads, -1)).transpose(1, 2)


def _gain_and_bias(norm: nn.Module) -> tuple[Tensor, Tensor]:
    """Gain and bias (P,) of a norm; some norms have no bias."""
    gain = norm.get_parameter("weight")
    return gain, dict(norm.named_parameters()).get("bias", torch.zeros_like(gain))


def _without_gain(norm: nn.Module, states: Tensor) -> Tensor:
    """Norm states (..., P) with a gain of one and no bias."""
    neutral = {
        name: torch.ones_like(parameter) if name == "weight" else torch.zeros_like(parameter)
        for name, parameter in norm.named_parameters()
    }
    return functional_call(norm, neutral, (states,))


@register(
    "context",
    lambda size: {"proj_dim": size.scaled(1, 2)},
    summary="one context of every token, once for all layers",
)
class ContextPythiaModel(RecurrentModel, Decoder):
    """Embedding -> embed_norm -> DiverseProjection -> Linear to the blocks; their attention reads the contexts.

    Contexts are kept a token, so cropping is exact: the recurrence goes on from the last one that is left.
    """

    config_class = ContextPythiaConfig
    attention = SharedContextAttention

    @staticmethod
    def source_width(config: DecoderConfig) -> int:
        """Width P of a context."""
        assert isinstance(config, ContextPythiaConfig)
        return config.proj_dim

    def add_parts(self, config: DecoderConfig) -> None:
        """Make the recurrence, and the way from a context into the blocks."""
        assert isinstance(config, ContextPythiaConfig)
        self.add_recurrences(config.hidden_size, [config.proj_dim])
        self.context_to_hidden = nn.Linear(config.proj_dim, config.hidden_size)

    def encode(self, step: Step) -> Tensor:
        """Run recurrence, blocks and final norm: (B, T, d)."""
        state = None
        if step.cache is not None and step.past_length > 0:
            layer = step.cache.layers[0]
            assert isinstance(layer, DynamicLayer) and layer.keys is not None
            # A padding token leaves the context as it was, so the last one kept is the state with padding too.
            state = layer.keys[:, 0, -1]
        contexts = self.unroll_contexts(self.embed_norm(step.embeds), state, step)
        hidden = self.context_to_hidden(contexts)
        if step.cache is not None:
            kept, _ = step.cache.update(contexts[:, None], contexts[:, None, :, :0], 0)
            contexts = kept[:, 0]
        norm = cast(nn.Module, self.stack.layers[0].input_layernorm)
        return self.run_blocks(hidden, step, _without_gain(norm, contexts))

    def cache_layout(self) -> list[type[CacheLayerMixin]]:
        """One stock layer, for all blocks."""
        return [DynamicLayer]

    def cached_values(self, tokens: int) -> int:
        """One context a token."""
        return tokens * self.config.proj_dim
