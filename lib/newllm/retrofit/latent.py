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
from newllm.models.config import DecoderConfig
from newllm.models.methods.mla import LatentAttention, MLAPythiaConfig, MLAPythiaModel
from newllm.models.methods.pythia import PythiaConfig, PythiaModel
from newllm.models.position import PositionEncodingConfig
from newllm.retrofit.calibration import Moments
from newllm.retrofit.factorisation import Factors, allot_ranks, factorise, factorise_apart, principal_directions
from newllm.retrofit.heads import Heads, fill
from newllm.retrofit.parents import rotary_dim_of
from newllm.retrofit.rotary import Split, choose_pairs, share_rotary_keys, split_entries
from newllm.runtime import move

# Share of the mean variance that is added to every direction of the input, so that directions which the calibration
# text hardly has are ordered by the weights, and none of them is lost at full rank.
RIDGE = 1e-9
# What a retrofit takes over of the parent's config as it is.
DECODER_FIELDS = (
    *("vocab_size", "hidden_size", "initializer_range", "layer_norm_eps", "use_cache", "bos_token_id", "eos_token_id"),
    *("pad_token_id", "tie_word_embeddings", "backbone", "num_hidden_layers", "num_attention_heads"),
    *("intermediate_size", "max_position_embeddings"),
)


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
    def full_rank(self) -> int:
        """Width of a latent that loses nothing: as many entries as keys and values have, or as the input has."""
        return min(len(self.keys) + len(self.values), self.values.shape[1])

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
            if of_keys < 1:
                raise ValueError("a latent of one entry cannot be split into one for keys and one for values: widen it")
            return factorise_apart([self.keys, self.values], [of_keys, rank - of_keys], self.covariance)
        return factorise(torch.cat([self.keys, self.values]), rank, None if kind == "plain" else self.covariance)


def _rows(weight: Tensor, index: Tensor) -> Tensor:
    """Rows (heads, n, ...) of weights (heads, d_h, ...) by number (heads, n)."""
    whole = index.view(*index.shape, *[1] * (weight.ndim - 2)).expand(*index.shape, *weight.shape[2:])
    return weight.gather(1, whole)


def prepare_layers(
    parent: PythiaModel, heads: Sequence[Heads], moments: Sequence[Moments], parameters: RetrofitParameters
) -> list[Layer]:
    """Choose what stays rotated in every layer; ValueError where that is more than is rotated."""
    config = parent.config
    assert isinstance(config, PythiaConfig)
    head_dim = config.hidden_size // config.num_attention_heads
    rotary_dim = rotary_dim_of(parent)
    count = rotary_dim // 2 if parameters.rotary_pairs is None else parameters.rotary_pairs
    if count > rotary_dim // 2:
        raise ValueError(f"rotary_pairs={count} is more than the {rotary_dim // 2} pairs of a head that are rotated")
    shared = parameters.rotary_heads == "shared"
    layers = []
    for part, seen in zip(heads, moments, strict=True):
        choice = parameters.rotary_choice if count < rotary_dim // 2 else "high"
        pairs = choose_pairs(part, rotary_dim, count, choice, seen, same_for_all=shared)
        layers.append(Layer(part, split_entries(pairs, rotary_dim, head_dim), seen))
    return layers


def rotary_values(layer: Layer, parameters: RetrofitParameters) -> int:
    """Values a token that rotary keys take beside the latent of a layer."""
    keys, width = layer.split.rotated.shape
    return width if parameters.rotary_heads == "shared" else keys * width


def latent_widths(layers: Sequence[Layer], values_of_parent: int, parameters: RetrofitParameters) -> list[int]:
    """Widths of the latents of all layers.

    Parameters
    ----------
    layers
        As prepared.
    values_of_parent
        Values a token and layer that the parent keeps.
    parameters
        ``kv_dim`` or ``keep``, and how ranks are given out.

    Raises
    ------
    ValueError
        Where the share to keep does not hold the rotary keys, or a width is more than loses nothing.
    """
    rotary, full = rotary_values(layers[0], parameters), layers[0].full_rank
    width = parameters.kv_dim
    if parameters.keep is not None:
        goal = int(parameters.keep * values_of_parent)
        width = goal - rotary
        if width < 1:
            raise ValueError(
                f"keep={parameters.keep} leaves {goal} values a token and layer, but rotary keys take {rotary}: keep "
                "more, rotate fewer pairs (rotary_pairs), or let heads share them (rotary_heads=shared)"
            )
        width = min(width, full)
    elif width is None:
        width = max(1, min(full, (len(layers[0].keys) + len(layers[0].values)) // 2))
    if width > full:
        raise ValueError(f"kv_dim={width} is more than {full}, which loses nothing: take that or less")
    if parameters.ranks == "uniform":
        return [width] * len(layers)
    energies = [layer.energies(weighted=parameters.factorisation != "plain")[:full] for layer in layers]
    return allot_ranks(energies, width * len(layers))


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
    config = _config(parent, layers[0], widths, parameters)
    if config.has_rotary_key and parameters.rotary_pairs is not None:
        kept = [layer.split.pairs if config.rotary_heads > 1 else layer.split.pairs[:1] for layer in layers]
        config.rotary_pairs = [pairs.tolist() for pairs in kept]
        config.rotary_width = rotary_dim_of(parent)
    model = MLAPythiaModel(config)
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
    parent: PythiaModel, layer: Layer, widths: Sequence[int], parameters: RetrofitParameters
) -> MLAPythiaConfig:
    """Make the config of the model with latents."""
    theirs = parent.config
    assert isinstance(theirs, PythiaConfig)
    position = PositionEncodingConfig.parse(theirs.position)
    keys, rotary_dim = layer.split.rotated.shape
    rotary: dict[str, Any] = {}
    if rotary_dim:
        position = PositionEncodingConfig("rope", rotary_fraction=1.0, rotary_base=position.rotary_base)
        rotary = {
            "rotary_dim": rotary_dim,
            "rotary_heads": 1 if parameters.rotary_heads == "shared" else keys,
            "key_dim": layer.split.unrotated.shape[1],
        }
    unequal = len(set(widths)) > 1
    return MLAPythiaConfig(
        **shared_fields(theirs),
        **rotary,
        position=position,
        kv_dim=max(widths),
        kv_dims=list(widths) if unequal else None,
        attention_biases="all",
    )


def shared_fields(config: DecoderConfig) -> dict[str, Any]:
    """Return the fields that all decoders have, but for the position encoding."""
    return {name: getattr(config, name) for name in DECODER_FIELDS}


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
