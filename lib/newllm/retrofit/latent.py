"""Keys and values become one latent: the baseline's attention as latent attention.

What RoPE turns of a key stays beside the latent, because turning does not commute with expansion; the rest of the keys
and the values are factorised together. Biases are kept exactly: that of an unrotated key adds the same to all scores of
a query and drops out of the softmax; that of a value passes through the weights, which add up to one, into the bias of
the last linear map. The same holds for the mean of what a factorisation leaves out, so that is kept too.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from newllm.config.retrofit import RetrofitParameters
from newllm.models.methods.mla import LatentAttention, MLAPythiaConfig, MLAPythiaModel
from newllm.models.methods.pythia import PythiaModel
from newllm.models.position import PositionEncodingConfig
from newllm.retrofit.calibration import Moments
from newllm.retrofit.factorisation import Factors, allot_ranks, factorise, factorise_apart, principal_directions
from newllm.retrofit.heads import Heads, fill
from newllm.retrofit.parents import config_of
from newllm.retrofit.planning import Shape, shape_of, shared_fields
from newllm.retrofit.rotary import Split, choose_pairs, share_rotary_keys, split_entries
from newllm.runtime import move

# Share of the mean variance that is added to every direction of the input, so that directions which the calibration
# text hardly has are ordered by the weights, and none of them is lost at full rank.
RIDGE = 1e-9


@dataclass(frozen=True)
class Layer:
    """One layer of the parent, before it is factorised.

    Attributes
    ----------
    heads
        Its attention.
    split
        The entries of its heads that stay rotated.
    moments
        Of its input.
    """

    heads: Heads
    split: Split
    moments: Moments

    @property
    def keys(self) -> Tensor:
        """Weights of all unrotated entries of keys (m_k, d)."""
        return _rows(self.heads.keys, self.split.unrotated).flatten(0, 1)

    @property
    def values(self) -> Tensor:
        """Weights of all values (m_v, d)."""
        return self.heads.values.flatten(0, 1)

    @property
    def covariance(self) -> Tensor:
        """Covariance (d, d) of the input, with a ridge."""
        covariance = self.moments.covariance
        return covariance + RIDGE * covariance.diagonal().mean() * torch.eye(len(covariance), dtype=covariance.dtype)

    def energies(self, *, weighted: bool) -> Tensor:
        """Energy of each direction of keys and values together, the largest first."""
        return principal_directions(torch.cat([self.keys, self.values]), self.covariance if weighted else None)[1]

    def factorise(self, rank: int, kind: str) -> Factors:
        """Factorise keys and values to a latent of ``rank`` entries, by one of the kinds of the parameters."""
        if kind == "split" and len(self.keys):
            of_keys = min(max(1, round(rank * len(self.keys) / (len(self.keys) + len(self.values)))), rank - 1)
            return factorise_apart([self.keys, self.values], [of_keys, rank - of_keys], self.covariance)
        return factorise(torch.cat([self.keys, self.values]), rank, None if kind == "plain" else self.covariance)


def _rows(weight: Tensor, index: Tensor) -> Tensor:
    """Rows (heads, n, ...) of weights (heads, d_h, ...) by number (heads, n)."""
    whole = index.view(*index.shape, *[1] * (weight.ndim - 2)).expand(*index.shape, *weight.shape[2:])
    return weight.gather(1, whole)


def prepare_layers(
    heads: Sequence[Heads], moments: Sequence[Moments], shape: Shape, parameters: RetrofitParameters
) -> list[Layer]:
    """Choose what stays rotated in every layer."""
    shared = parameters.rotary_heads == "shared"
    # Where all pairs stay there is nothing to choose.
    choice = parameters.rotary_choice if 2 * shape.pairs < shape.rotary_dim else "high"
    layers = []
    for part, seen in zip(heads, moments, strict=True):
        pairs = choose_pairs(part, shape.rotary_dim, shape.pairs, choice, seen, same_for_all=shared)
        layers.append(Layer(part, split_entries(pairs, shape.rotary_dim, shape.head_dim), seen))
    return layers


def latent_widths(layers: Sequence[Layer], shape: Shape, width: int, parameters: RetrofitParameters) -> list[int]:
    """Widths of the latents of all layers: ``width`` in each, or as much in the mean, given out by the energy lost."""
    if parameters.ranks == "uniform":
        return [width] * len(layers)
    energies = [layer.energies(weighted=parameters.factorisation != "plain")[: shape.full_rank] for layer in layers]
    # A latent that is split has an entry of each at least.
    return allot_ranks(energies, width * len(layers), least=2 if parameters.factorisation == "split" else 1)


def build_latent_model(
    parent: PythiaModel, layers: Sequence[Layer], widths: Sequence[int], kind: str, parameters: RetrofitParameters
) -> tuple[MLAPythiaModel, list[float]]:
    """Build the model with latents, and say what share of the energy of keys and values each layer has lost.

    Parameters
    ----------
    parent
        The trained model; everything but its attention is taken over as it is.
    layers, widths
        Of its attention, and of the latents.
    kind
        How keys and values are factorised.
    parameters
        Whether rotary keys are shared.
    """
    model = MLAPythiaModel(_config(parent, layers, widths, parameters))
    torch.nn.Module.to(model, parent.dtype)
    copy_rest(parent, model)
    lost = []
    for number, (layer, width) in enumerate(zip(layers, widths, strict=True)):
        factors = layer.factorise(width, kind)
        attention = model.stack.layers[number].attention
        assert isinstance(attention, LatentAttention)
        _fill_attention(attention, layer, factors, centred=kind != "plain")
        lost.append(factors.energy_lost)
    move(model, parent.device)
    return model.eval(), lost


def _config(
    parent: PythiaModel, layers: Sequence[Layer], widths: Sequence[int], parameters: RetrofitParameters
) -> MLAPythiaConfig:
    """Make the config of the model with latents."""
    theirs = config_of(parent)
    shape = shape_of(theirs, parameters)
    position = PositionEncodingConfig.parse(theirs.position)
    keys = 1 if parameters.rotary_heads == "shared" else shape.groups
    rotary_dim = 2 * shape.pairs
    rotary: dict[str, Any] = {}
    if rotary_dim:
        position = PositionEncodingConfig("rope", rotary_fraction=1.0, rotary_base=position.rotary_base)
        rotary = {
            "rotary_dim": rotary_dim,
            "rotary_heads": keys,
            "key_dim": shape.head_dim - rotary_dim,
        }
        if parameters.rotary_pairs is not None:
            rotary["rotary_pairs"] = [layer.split.pairs[:keys].tolist() for layer in layers]
            rotary["rotary_width"] = shape.rotary_dim
    unequal = len(set(widths)) > 1
    return MLAPythiaConfig(
        **shared_fields(theirs),
        **rotary,
        position=position,
        kv_dim=max(widths),
        kv_dims=list(widths) if unequal else None,
        attention_biases="all",
    )


@torch.no_grad()
def copy_rest(parent: PythiaModel, model: torch.nn.Module) -> None:
    """Take over every weight of the parent that does not belong to its attention."""
    attention = (".attention.", ".self_attn.")
    rest = {name: value for name, value in parent.state_dict().items() if not any(part in name for part in attention)}
    missing, unexpected = model.load_state_dict(rest, strict=False)
    assert not unexpected and all(any(part in name for part in attention) for name in missing)


@torch.no_grad()
def _fill_attention(attention: LatentAttention, layer: Layer, factors: Factors, *, centred: bool) -> None:
    """Give a layer of latent attention its weights."""
    heads, split = layer.heads, layer.split
    of_group = torch.arange(len(heads.keys)).repeat_interleave(heads.share)
    # What the factorisation leaves out of the mean is the same at every token.
    stacked = torch.cat([layer.keys, layer.values])
    left_out = (stacked - factors.expand @ factors.compress) @ layer.moments.mean
    value_bias = heads.value_bias + (left_out[len(layer.keys) :].view_as(heads.value_bias) if centred else 0.0)
    expand_keys, expand_values = factors.expand.split([len(layer.keys), len(layer.values)])
    fill(attention.compress, factors.compress)
    fill(attention.expand_values, _by_query_head(expand_values, of_group))
    fill(
        attention.dense,
        heads.output.flatten(1),
        heads.output_bias + torch.einsum("dhv,hv->d", heads.output, value_bias[of_group]),
    )
    if attention.key_dim:
        unrotated = split.unrotated[of_group]
        fill(
            attention.query, _rows(heads.queries, unrotated).flatten(0, 1), _rows(heads.query_bias, unrotated).flatten()
        )
        fill(attention.expand_keys, _by_query_head(expand_keys, of_group))
    if not attention.rotary_dim:
        return
    if attention.shares_rotary_key and len(heads.keys) > 1:
        query, query_bias, key, key_bias = share_rotary_keys(heads, split, layer.moments)
    else:
        rotated = split.rotated[of_group]
        query, query_bias = _rows(heads.queries, rotated), _rows(heads.query_bias, rotated)
        key, key_bias = _rows(heads.keys, split.rotated), _rows(heads.key_bias, split.rotated)
    fill(attention.rotary_query, query.flatten(0, 1), query_bias.flatten())
    fill(attention.rotary_key, key.flatten(0, 1), key_bias.flatten())


def _by_query_head(expand: Tensor, of_group: Tensor) -> Tensor:
    """Rows (G n, r) of key-value heads as those of query heads (H n, r), which repeat them."""
    return expand.view(int(of_group.max()) + 1, -1, expand.shape[1])[of_group].flatten(0, 1)
