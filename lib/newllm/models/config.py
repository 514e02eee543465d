"""The parts of a configuration that all models, and all decoders, share."""

import logging
import math
from collections.abc import Sequence
from dataclasses import fields
from typing import Any, ClassVar

from huggingface_hub.dataclasses import strict
from transformers import GenerationConfig, PreTrainedConfig

from newllm.models.position import COMPUTED_IN, PositionEncoding, PositionEncodingConfig

logger = logging.getLogger(__name__)

# Far beyond any model; above them, building one would take minutes, or overflow, before anything could refuse it.
MOST_LAYERS = 1000
LARGEST_SIZE = 10**8
# Thousands of times the usual 0.02, and far below where products of weights overflow float32, which is from 1e6 on.
LARGEST_INITIALIZER_RANGE = 100.0

# The blocks that a decoder can be built of, with the share of a head that their own RoPE turns.
ROTARY_FRACTIONS = {"neox": 0.25, "llama": 1.0}
# Which linear maps of attention have a bias: none, those that make queries, keys and values, or the last one too.
ATTENTION_BIASES = ("none", "inputs", "all")

# What transformers itself writes into a config.json, or hands to a config, beside its declared fields.
OF_TRANSFORMERS = {
    "attn_implementation",
    "auto_map",
    "experts_implementation",
    "model_type",
    "name_or_path",
    "num_labels",
    "output_attentions",
    "quantization_config",
    "torch_dtype",
    "_attn_implementation_autoset",
    "_commit_hash",
    "_name_or_path",
    *GenerationConfig._get_default_generation_params(),
}


def round_to_heads(proj_dim: int, num_heads: int) -> int:
    """Round a context's width up to a multiple of the heads, with a warning; ValueError below 1."""
    if not 1 <= proj_dim <= LARGEST_SIZE:
        raise ValueError(f"proj_dim={proj_dim} must be at least 1 and at most {LARGEST_SIZE}")
    heads = max(1, num_heads)
    rounded = -(-proj_dim // heads) * heads
    if rounded != proj_dim:
        logger.warning("proj_dim %d is rounded up to %d, a multiple of %d heads", proj_dim, rounded, heads)
    return rounded


@strict
class LanguageModelConfig(PreTrainedConfig):
    """What every model here has, whatever stands between its embeddings.

    Attributes
    ----------
    vocab_size, hidden_size
        Number of token ids V, and width d of the hidden states.
    """

    # What a Trainer does not gather from the outputs; it adds to this list, so a tuple will not do.
    keys_to_ignore_at_inference = ["past_key_values"]  # noqa: RUF012 (transformers reads it so)
    # Fields that change nothing of what a cached value means, so that models which differ in them can share a cache.
    not_in_cache: ClassVar[frozenset[str]] = frozenset(
        {
            "vocab_size",
            "initializer_range",
            "use_cache",
            "bos_token_id",
            "eos_token_id",
            "pad_token_id",
            "tie_word_embeddings",
        }
    )
    # Fields that `configure` does not take, because they change neither what the model computes, nor how it is trained,
    # nor its size: an arm that sets one would be another arm under a name of its own.
    not_settings: ClassVar[frozenset[str]] = frozenset({"use_cache", "bos_token_id", "eos_token_id", "pad_token_id"})

    vocab_size: int = 50304
    hidden_size: int = 512
    initializer_range: float = 0.02
    layer_norm_eps: float = 1e-5
    use_cache: bool = True
    bos_token_id: int | None = 0
    eos_token_id: int | list[int] | None = 0
    pad_token_id: int | None = None
    tie_word_embeddings: bool = False

    def __post_init__(self, **kwargs: Any) -> None:
        # Where transformers finds the class of a saved model: of the folder, not of the model.
        kwargs.pop("auto_map", None)
        unknown = {name: value for name, value in kwargs.items() if name not in OF_TRANSFORMERS and value is not None}
        for name, value in unknown.items():
            raise ValueError(
                f"{name}={value!r} is no field of {type(self).__name__}: take it out, or load the model that has it"
            )
        super().__post_init__(**{name: value for name, value in kwargs.items() if name in OF_TRANSFORMERS})

    @classmethod
    def settings(cls) -> frozenset[str]:
        """Names of the fields that make another model: those of the classes here, less what each says is none."""
        inherited = {field.name for field in fields(PreTrainedConfig)}
        no_settings = [vars(part).get("not_settings", ()) for part in cls.__mro__]
        return frozenset(field.name for field in fields(cls)) - inherited - frozenset().union(*no_settings)

    @classmethod
    def register_for_auto_class(cls, auto_class: Any = "AutoConfig") -> None:
        """Do nothing: what is saved beside weights is always the same small file, never a copy of this class's."""

    def validate_architecture(self) -> None:
        """Refuse what no model can have, naming the field."""
        self.require_positive("vocab_size", "hidden_size")
        if self.is_encoder_decoder:
            raise ValueError("is_encoder_decoder=True is not supported: these models are decoders, take it out")
        for name in ("initializer_range", "layer_norm_eps"):
            if not 0 < getattr(self, name) < math.inf:
                raise ValueError(f"{name}={getattr(self, name)} must be a number above 0")
        if self.initializer_range > LARGEST_INITIALIZER_RANGE:
            raise ValueError(
                f"initializer_range={self.initializer_range} must be at most {LARGEST_INITIALIZER_RANGE:g}: it is the "
                "standard deviation of the first weights, and larger ones make logits that are not finite"
            )

    def derive(self, reason: str, **values: Any) -> None:
        """Set fields that follow from others; ValueError where one was given as something else.

        Parameters
        ----------
        reason
            The field that they follow from.
        values
            What they are, by name.
        """
        for name, value in values.items():
            given = getattr(self, name)
            if given not in (type(self).__dataclass_fields__[name].default, value):
                raise ValueError(f"{name}={given} is not free, it is {value} and follows from {reason}: leave it out")
            setattr(self, name, value)

    def cache_settings(self) -> str:
        """Describe all fields that say what a cached value means."""
        inherited = {field.name for field in fields(PreTrainedConfig)} | self.not_in_cache
        names = sorted(field.name for field in fields(self) if field.name not in inherited)
        return ", ".join(f"{name}={getattr(self, name)!r}" for name in names)

    def require_positive(self, *names: str, most: int = LARGEST_SIZE) -> None:
        """Raise ValueError for the first of these fields that is below 1, or above ``most``."""
        for name in names:
            if getattr(self, name) < 1:
                raise ValueError(f"{name}={getattr(self, name)} must be at least 1")
            if getattr(self, name) > most:
                raise ValueError(f"{name}={getattr(self, name)} must be at most {most}")

    def require_choice(self, name: str, choices: Sequence[str]) -> None:
        """Raise ValueError where this field is none of ``choices``."""
        if getattr(self, name) not in choices:
            raise ValueError(f"{name}={getattr(self, name)!r} is unknown: choose one of {', '.join(choices)}")


@strict
class BorrowedEmbeddingConfig(LanguageModelConfig):
    """What the models have that stand on the token embedding of another model, GPT-2's in the first place.

    Attributes
    ----------
    freeze_embedding
        Whether training leaves the token embedding as it is.
    embedding_source
        Whose embedding to take, as `newllm.training.embeddings.read_embedding` reads it, or ``random``; None
        means that of a baseline on the same data.
    embedding_digest
        Digest of the embedding that was taken, by which training knows that it was.
    data_split
        What each context block is trained on: its own one of as many contiguous parts of the data (``disjoint``), or
        all of it (``full``); with one block there is no choice.
    """

    not_in_cache = LanguageModelConfig.not_in_cache | {
        "freeze_embedding",
        "embedding_source",
        "embedding_digest",
        "data_split",
    }
    # One step a token: that is how generation sizes its cache. Not a setting.
    num_hidden_layers = 1
    not_settings = frozenset({"embedding_digest"})

    vocab_size: int = 50257
    hidden_size: int = 768
    tie_word_embeddings: bool = True
    freeze_embedding: bool = True
    embedding_source: str | None = None
    embedding_digest: str | None = None
    data_split: str = "disjoint"

    @property
    def context_widths(self) -> list[int]:
        """Width of each context block."""
        raise NotImplementedError

    def validate_architecture(self) -> None:
        """Refuse what no model can have, naming the field."""
        super().validate_architecture()
        self.require_choice("data_split", ("disjoint", "full"))
        if self.data_split == "full" and len(self.context_widths) == 1:
            raise ValueError(
                "data_split='full' does nothing with one context block, which has all of the data: leave it out"
            )


@strict
class DecoderConfig(LanguageModelConfig):
    """Shape of a decoder; field names are GPT-NeoX's.

    Attributes
    ----------
    backbone
        The block: ``neox`` or ``llama`` (see `newllm.models.backbones`).
    num_hidden_layers, num_attention_heads, intermediate_size
        L, H and the width of the MLP.
    max_position_embeddings
        Longest sequence the model is meant for.
    position
        A `PositionEncodingConfig`, its dictionary, or the name of an encoding; RoPE turns as much of a head as is
        usual for the backbone, where nothing is said.
    """

    backbone: str = "neox"
    num_hidden_layers: int = 6
    num_attention_heads: int = 8
    intermediate_size: int = 2048
    max_position_embeddings: int = 2048
    position: PositionEncodingConfig | dict | str = "rope"

    # Positions are computed, not looked up, so a longest one limits nothing.
    not_settings = frozenset({"max_position_embeddings"})

    def __post_init__(self, **kwargs: Any) -> None:
        self.require_choice("backbone", list(ROTARY_FRACTIONS))
        self.position = self.read_position(self.position)
        super().__post_init__(**kwargs)

    def read_position(self, position: PositionEncodingConfig | dict | str) -> PositionEncodingConfig:
        """Read a position encoding, in one way to say it, so that equal models have equal configurations."""
        usual = ROTARY_FRACTIONS[self.backbone]
        head_dim = self.hidden_size // max(1, self.num_attention_heads)
        return PositionEncodingConfig.parse(position, usual).in_whole_pairs(head_dim, usual)

    def bias_of_attention(self) -> str:
        """Which linear maps of attention have a bias, one of `ATTENTION_BIASES`: as is usual for the backbone."""
        return "all" if self.backbone == "neox" else "none"

    def build_position(self, head_dim: int) -> PositionEncoding:
        """Make the position encoding for heads of width ``head_dim``."""
        return PositionEncodingConfig.parse(self.position).build(head_dim, self.num_attention_heads)

    def to_dict(self) -> dict[str, Any]:
        """Return the JSON-serialisable form, the position encoding as a dictionary."""
        plain = super().to_dict()
        position = plain.get("position")
        if isinstance(position, PositionEncodingConfig):
            plain["position"] = position.to_dict()
        return plain

    def validate_architecture(self) -> None:
        """Refuse shapes that no model can have, naming the field."""
        super().validate_architecture()
        self.require_positive("num_hidden_layers", most=MOST_LAYERS)
        self.require_positive("num_attention_heads", "intermediate_size")
        if self.max_position_embeddings < 1:
            raise ValueError(f"max_position_embeddings={self.max_position_embeddings} must be at least 1")
        if self.hidden_size % self.num_attention_heads:
            raise ValueError(
                f"hidden_size={self.hidden_size} must be a multiple of num_attention_heads={self.num_attention_heads}"
            )
        slope = PositionEncodingConfig.parse(self.position).alibi_slope
        if slope < COMPUTED_IN.tiny:
            raise ValueError(
                f"alibi_slope={slope:g} adds nothing to any score in float32: take position none instead of alibi"
            )
        self.build_position(self.hidden_size // self.num_attention_heads)


@strict
class GroupedDecoderConfig(DecoderConfig):
    """A decoder whose query heads may share their keys and values.

    Attributes
    ----------
    num_key_value_heads
        Key-value heads G that the H query heads share; None means H.
    """

    num_key_value_heads: int | None = None

    def __post_init__(self, **kwargs: Any) -> None:
        # One way to say that no head shares, so that equal models have equal configurations.
        if self.num_key_value_heads == self.num_attention_heads:
            self.num_key_value_heads = None
        super().__post_init__(**kwargs)

    def validate_architecture(self) -> None:
        """Refuse shapes that no model can have, naming the field."""
        super().validate_architecture()
        groups = self.num_key_value_heads
        if groups is not None and (groups < 1 or self.num_attention_heads % groups):
            raise ValueError(f"num_key_value_heads={groups} must divide num_attention_heads={self.num_attention_heads}")
