"""What a retrofit will be, known from configurations alone: the width of latents, and what is refused before work."""

from dataclasses import dataclass
from typing import Any

from huggingface_hub.errors import StrictDataclassError

from newllm.config.retrofit import RetrofitParameters
from newllm.models.config import DecoderConfig
from newllm.models.methods.cla import CLAPythiaConfig
from newllm.models.methods.pythia import PythiaConfig

# What a retrofit takes over of the parent's config as it is.
DECODER_FIELDS = (
    *("vocab_size", "hidden_size", "initializer_range", "layer_norm_eps", "use_cache", "bos_token_id", "eos_token_id"),
    *("pad_token_id", "tie_word_embeddings", "backbone", "num_hidden_layers", "num_attention_heads"),
    *("intermediate_size", "max_position_embeddings"),
)


def shared_fields(config: DecoderConfig) -> dict[str, Any]:
    """Return the fields that all decoders have, but for the position encoding."""
    return {name: getattr(config, name) for name in DECODER_FIELDS}


@dataclass(frozen=True)
class Shape:
    """Entries of one layer of the parent, and which of them stay rotated.

    Attributes
    ----------
    groups
        Key-value heads.
    head_dim
        Entries of a head.
    rotary_dim
        Entries of a head that the parent rotates.
    pairs
        Pairs of a head that stay rotated.
    rotary_values
        Values a token that rotary keys take beside the latent.
    full_rank
        Width of a latent that loses nothing: as many entries as keys and values have, or as the input has.
    """

    groups: int
    head_dim: int
    rotary_dim: int
    pairs: int
    rotary_values: int
    full_rank: int

    @property
    def values(self) -> int:
        """Values a token that the parent keeps of a layer."""
        return 2 * self.groups * self.head_dim

    @property
    def unrotated(self) -> int:
        """Of these, what a latent is made of: all but the entries of keys that stay rotated."""
        return self.values - self.groups * 2 * self.pairs


def shape_of(config: PythiaConfig, parameters: RetrofitParameters) -> Shape:
    """Say what a layer of the parent has, and what of it stays rotated.

    Raises
    ------
    ValueError
        Where more pairs are to stay rotated than are.
    """
    head_dim = config.hidden_size // config.num_attention_heads
    groups = config.num_key_value_heads or config.num_attention_heads
    rotary_dim = config.build_position(head_dim).rotary_dim
    pairs = rotary_dim // 2 if parameters.rotary_pairs is None else parameters.rotary_pairs
    if pairs > rotary_dim // 2:
        raise ValueError(f"rotary_pairs={pairs} is more than the {rotary_dim // 2} pairs of a head that are rotated")
    rotary_values = 2 * pairs * (1 if parameters.rotary_heads == "shared" else groups)
    unrotated = 2 * groups * (head_dim - pairs)
    return Shape(groups, head_dim, rotary_dim, pairs, rotary_values, min(unrotated, config.hidden_size))


def latent_width(config: PythiaConfig, parameters: RetrofitParameters) -> int:
    """Width of the latent of a layer, or its mean where ranks are given out by energy.

    Raises
    ------
    ValueError
        Where the share to keep does not hold the rotary keys, or the width is more than loses nothing.
    """
    shape = shape_of(config, parameters)
    if parameters.keep is not None:
        goal = int(parameters.keep * shape.values)
        if goal <= shape.rotary_values:
            raise ValueError(
                f"keep={parameters.keep} leaves {goal} values a token and layer, but rotary keys take "
                f"{shape.rotary_values}: keep more, rotate fewer pairs (rotary_pairs), or let heads share them "
                "(rotary_heads=shared)"
            )
        return min(goal - shape.rotary_values, shape.full_rank)
    if parameters.kv_dim is None:
        return max(1, min(shape.full_rank, shape.unrotated // 2))
    if parameters.kv_dim > shape.full_rank:
        raise ValueError(
            f"kv_dim={parameters.kv_dim} is more than {shape.full_rank}, which loses nothing: take that or less"
        )
    return parameters.kv_dim


def check(config: PythiaConfig, parameters: RetrofitParameters) -> None:
    """Refuse what this parent cannot become, before anything is read, trained or written.

    Raises
    ------
    ValueError
        In one sentence.
    """
    if parameters.method == "mla":
        width = latent_width(config, parameters)
        if parameters.factorisation == "split" and width < 2:
            raise ValueError("a latent of one entry cannot be split into one for keys and one for values: widen it")
        _refuse_without_effect(shape_of(config, parameters), parameters)
    elif parameters.method == "mqa":
        groups, left = shape_of(config, parameters).groups, parameters.num_key_value_heads
        if left >= groups or groups % left:
            raise ValueError(
                f"num_key_value_heads={left} must divide the {groups} key-value heads of the model, and be fewer"
            )
    else:
        sharing = cla_config(config, parameters)
        if sharing.bias_of_attention() != config.bias_of_attention():
            raise ValueError(
                f"cla has no place for the biases of this model's attention ({config.bias_of_attention()}): take mla "
                "or mqa"
            )


def _refuse_without_effect(shape: Shape, parameters: RetrofitParameters) -> None:
    """Refuse settings of rotary keys that change nothing in a model of this shape."""
    if parameters.factorisation == "split" and 2 * shape.pairs == shape.head_dim:
        raise ValueError(
            "factorisation=split does nothing where all of a head stays rotated, for a latent holds no keys then: "
            f"give rotary_pairs below {shape.pairs}, or leave it out"
        )
    if parameters.rotary_heads == "shared" and (shape.pairs == 0 or shape.groups == 1):
        lacks = "rotates nothing" if shape.pairs == 0 else "has one key head"
        raise ValueError(f"rotary_heads=shared does nothing for a model that {lacks}: leave it out")
    if "rotary_choice" in parameters.model_fields_set and 2 * shape.pairs == shape.rotary_dim:
        raise ValueError(
            f"rotary_choice does nothing where all {shape.pairs} pairs stay rotated: give fewer rotary_pairs, or leave "
            "it out"
        )


def cla_config(config: PythiaConfig, parameters: RetrofitParameters) -> CLAPythiaConfig:
    """Make the config of the model whose layers share keys and values.

    Raises
    ------
    ValueError
        Where there are fewer layers than are to share.
    """
    try:
        return CLAPythiaConfig(
            **shared_fields(config),
            position=config.position,
            num_key_value_heads=config.num_key_value_heads,
            layers_sharing=parameters.layers_sharing,
        )
    except StrictDataclassError as error:
        # The sentence of the field itself is what helps.
        raise ValueError(str(error.__cause__ or error)) from error
