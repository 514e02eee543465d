"""KA-Pythia: past values are replaced by past attention outputs. Saves nothing; asks what a cached value has to be."""

import torch
from huggingface_hub.dataclasses import strict
from torch import Tensor
from transformers.cache_utils import DynamicLayer

from newllm.models.attention import MultiHeadAttention
from newllm.models.decoder import Decoder
from newllm.models.methods.pythia import PythiaConfig
from newllm.models.registry import register
from newllm.models.step import Step


@strict
class KAPythiaConfig(PythiaConfig):
    """A Pythia shape; reads the config of a trained Pythia too."""

    model_type = "newllm-ka"

    not_settings = frozenset({"num_key_value_heads"})

    def validate_architecture(self) -> None:
        """Refuse shapes that no model can have, naming the field."""
        super().validate_architecture()
        if self.num_key_value_heads is not None:
            raise ValueError(f"num_key_value_heads={self.num_key_value_heads} is not used by ka: leave it out")


class KeyAttention(MultiHeadAttention):
    """``A_i = sum_{j<i} w_ij A_j + w_ii V_i`` in each head, with the causal softmax weights ``w``; ``A_0 = V_0``.

    The cache holds keys and outputs A, as many values as Pythia's. Parameters are Pythia's by name and shape.
    """

    reads_cache_through_update = False

    def forward(self, hidden: Tensor, step: Step) -> Tensor:
        """Attend from and to ``hidden`` (B, T, d); returns (B, T, d)."""
        queries, keys, values = self.project(hidden, step)
        # Outputs depend on the weights, so they cannot enter the cache together with their keys' first use.
        past_keys, past_outputs = self._cached(step, keys)
        scores = torch.cat([queries @ past_keys.mT, queries @ keys.mT], dim=-1) * self.head_dim**-0.5
        weights = (scores + step.explicit_bias(self.position, scores.dtype)).softmax(dim=-1)
        past_weights, new_weights = weights.split([step.past_length, step.length], dim=-1)
        outputs = attend_to_outputs(new_weights, values, past_weights @ past_outputs)
        if step.cache is not None:
            step.cache.update(keys, outputs, self.layer_index)
        return self.join(outputs)

    def _cached(self, step: Step, like: Tensor) -> tuple[Tensor, Tensor]:
        """Keys and outputs of the tokens before (B, H, S - T, d_h)."""
        if step.past_length == 0:
            return like[:, :, :0], like[:, :, :0]
        assert step.cache is not None
        layer = step.cache.layers[self.layer_index]
        assert isinstance(layer, DynamicLayer)
        assert layer.keys is not None
        assert layer.values is not None
        return layer.keys, layer.values


def attend_to_outputs(weights: Tensor, values: Tensor, from_past: Tensor) -> Tensor:
    """Solve ``A = tril(w, -1) A + diag(w) V + past`` for all tokens at once.

    A unit lower-triangular system: one substitution, and stable, because the weights of a row add up to at most 1.

    Parameters
    ----------
    weights
        Attention weights among the T new tokens (B, H, T, T), zero above the diagonal.
    values
        Their values V (B, H, T, d_h).
    from_past
        What each of them gets from outputs of earlier calls (B, H, T, d_h).

    Returns
    -------
    Tensor
        A (B, H, T, d_h).
    """
    given = weights.diagonal(dim1=-2, dim2=-1)[..., None] * values + from_past
    # There is no triangular solve in half precision.
    precise = torch.promote_types(given.dtype, torch.float32)
    outputs = torch.linalg.solve_triangular(-weights.to(precise), given.to(precise), upper=False, unitriangular=True)
    return outputs.to(values.dtype)


@register("ka", lambda size: {}, summary="keys and attention outputs of every token, in every layer: no saving")
class KAPythiaModel(Decoder):
    """Pythia's blocks with key attention; ``from_pretrained`` takes the folder of a trained Pythia as it is."""

    config_class = KAPythiaConfig
    attention = KeyAttention
