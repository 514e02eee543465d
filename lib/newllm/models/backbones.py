"""The two blocks that the decoder is built of, under the parameter names of the checkpoints that have them.

``neox`` is GPT-NeoX: attention and MLP side by side, LayerNorm, GELU, biases. ``llama`` is Llama: one after the other,
RMSNorm, gated SiLU, no biases, RoPE on the whole head. `BACKBONES` holds them by the name that a config gives.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers.modeling_layers import GradientCheckpointingLayer

from newllm.models.attention import Attention
from newllm.models.config import DecoderConfig
from newllm.models.step import Step


class FeedForward(nn.Module):
    """Two linear maps with a GELU between: d -> intermediate_size -> d."""

    def __init__(self, hidden_size: int, intermediate_size: int) -> None:
        super().__init__()
        self.dense_h_to_4h = nn.Linear(hidden_size, intermediate_size)
        self.dense_4h_to_h = nn.Linear(intermediate_size, hidden_size)

    def forward(self, hidden: Tensor) -> Tensor:
        """(B, T, d) -> (B, T, d)."""
        return self.dense_4h_to_h(F.gelu(self.dense_h_to_4h(hidden)))


class GatedFeedForward(nn.Module):
    """``W_down (silu(W_gate h) * W_up h)``, without biases (Shazeer 2020, SwiGLU): d -> intermediate_size -> d."""

    def __init__(self, hidden_size: int, intermediate_size: int) -> None:
        super().__init__()
        self.gate_proj = nn.Linear(hidden_size, intermediate_size, bias=False)
        self.up_proj = nn.Linear(hidden_size, intermediate_size, bias=False)
        self.down_proj = nn.Linear(intermediate_size, hidden_size, bias=False)

    def forward(self, hidden: Tensor) -> Tensor:
        """(B, T, d) -> (B, T, d)."""
        return self.down_proj(F.silu(self.gate_proj(hidden)) * self.up_proj(hidden))


class RMSNorm(nn.Module):
    """``w h / sqrt(mean(h^2) + eps)`` (Zhang and Sennrich 2019), as Llama computes it: in float32 whatever the dtype.

    That holds for float64 too, where it rounds: models of float64 here and in transformers then agree to 1e-9.

    Attributes
    ----------
    computed_in
        The dtype of what is computed. Probes of float64 set it: two states that differ by 1e-16 may be rounded apart in
        float32, and what comes of that, 1e-5 in the logits of a deep model, looks like a leak.
    """

    def __init__(self, width: int, eps: float) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(width))
        self.eps = eps
        self.computed_in = torch.float32

    def forward(self, hidden: Tensor) -> Tensor:
        """(B, T, d) -> (B, T, d)."""
        precise = hidden.to(self.computed_in)
        normed = precise * torch.rsqrt(precise.pow(2).mean(-1, keepdim=True) + self.eps)
        return self.weight * normed.to(hidden.dtype)

    def extra_repr(self) -> str:
        """Width and eps."""
        return f"{len(self.weight)}, eps={self.eps}"


def layer_norm(width: int, eps: float) -> nn.Module:
    """Make a LayerNorm of GPT-NeoX."""
    return nn.LayerNorm(width, eps=eps)


class NeoXLayer(GradientCheckpointingLayer):
    """``h + attention(LN(h)) + mlp(LN'(h))``: the parallel block of GPT-NeoX (Black et al. 2022, sec. 2.1)."""

    attention: Attention

    def __init__(self, config: DecoderConfig, attention: Attention, source_width: int) -> None:
        super().__init__()
        self.input_layernorm = layer_norm(source_width, config.layer_norm_eps)
        self.post_attention_layernorm = layer_norm(config.hidden_size, config.layer_norm_eps)
        self.attention = attention
        self.mlp = FeedForward(config.hidden_size, config.intermediate_size)

    def forward(self, hidden: Tensor, source: Tensor, step: Step) -> Tensor:
        """One block.

        Parameters
        ----------
        hidden
            The residual stream (B, T, d).
        source
            What attention reads, before its norm: the stream itself in most models (B, T, source_width), or what is
            remembered of all tokens so far (B, S, source_width).
        step
            What is known of the tokens.
        """
        return (
            hidden
            + self.attention.read(source, self.input_layernorm, step)
            + self.mlp(self.post_attention_layernorm(hidden))
        )


class LlamaLayer(GradientCheckpointingLayer):
    """``a = h + attention(N(h))``, then ``a + mlp(N'(a))``: the block of Llama (Touvron et al. 2023, sec. 2.2)."""

    def __init__(self, config: DecoderConfig, attention: Attention, source_width: int) -> None:
        super().__init__()
        self.input_layernorm = RMSNorm(source_width, config.layer_norm_eps)
        self.post_attention_layernorm = RMSNorm(config.hidden_size, config.layer_norm_eps)
        self.self_attn = attention
        self.mlp = GatedFeedForward(config.hidden_size, config.intermediate_size)

    @property
    def attention(self) -> Attention:
        """The block's attention, by the name that it has in the other backbone."""
        return self.self_attn

    def forward(self, hidden: Tensor, source: Tensor, step: Step) -> Tensor:
        """One block, arguments as in `NeoXLayer`."""
        hidden = hidden + self.self_attn.read(source, self.input_layernorm, step)
        return hidden + self.mlp(self.post_attention_layernorm(hidden))


@dataclass(frozen=True)
class Backbone:
    """A kind of block, and what its checkpoints call the parts around the blocks.

    Attributes
    ----------
    layer
        The block.
    norm
        Makes a norm of a width, with an eps.
    stack, embedding, final_norm, head
        Names of the module that holds the blocks (called ``layers`` in both), of two parts in it, and of the output
        embedding.
    """

    layer: type[NeoXLayer] | type[LlamaLayer]
    norm: Callable[[int, float], nn.Module]
    stack: str
    embedding: str
    final_norm: str
    head: str


BACKBONES = {
    "neox": Backbone(NeoXLayer, layer_norm, "gpt_neox", "embed_in", "final_layer_norm", "embed_out"),
    "llama": Backbone(LlamaLayer, RMSNorm, "model", "embed_tokens", "norm", "lm_head"),
}


class DecoderStack(nn.Module):
    """Embedding, blocks and final norm, under the parameter names of the backbone's checkpoints."""

    layers: nn.ModuleList

    def __init__(
        self, config: DecoderConfig, attention: type[Attention], embedding_width: int, source_width: int
    ) -> None:
        super().__init__()
        self.backbone = BACKBONES[config.backbone]
        self.add_module(self.backbone.embedding, nn.Embedding(config.vocab_size, embedding_width))
        self.layers = nn.ModuleList(
            self.backbone.layer(config, attention(config, index), source_width)
            for index in range(config.num_hidden_layers)
        )
        self.add_module(self.backbone.final_norm, self.backbone.norm(config.hidden_size, config.layer_norm_eps))

    @property
    def embedding(self) -> nn.Module:
        """The token embedding."""
        return self.get_submodule(self.backbone.embedding)

    @property
    def final_norm(self) -> nn.Module:
        """The norm before the output embedding."""
        return self.get_submodule(self.backbone.final_norm)
