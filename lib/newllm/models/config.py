"""The parts of a configuration that all models, and all decoders, share."""

import logging
from collections.abc import Sequence
from typing import Any

from huggingface_hub.dataclasses import strict
from transformers import PreTrainedConfig

from newllm.models.position import PositionEncoding, PositionEncodingConfig

logger = logging.getLogger(__name__)


def round_to_heads(proj_dim: int, num_heads: int) -> int:
    """Round a context's width up to a multiple of the heads, with a warning; ValueError below 1."""
    if proj_dim < 1:
        raise ValueError(f"proj_dim={proj_dim} must be at least 1")
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

    # Read by generation and by transformers' own tools; never sampled into a loss here.
    keys_to_ignore_at_inference = ("past_key_values",)

    vocab_size: int = 50304
    hidden_size: int = 512
    initializer_range: float = 0.02
    layer_norm_eps: float = 1e-5
    use_cache: bool = True
    bos_token_id: int | None = 0
    eos_token_id: int | list[int] | None = 0
    pad_token_id: int | None = None
    tie_word_embeddings: bool = False

    def validate_architecture(self) -> None:
        """Refuse shapes that no model can have, naming the field."""
        self.require_positive("vocab_size", "hidden_size")

    def require_positive(self, *names: str) -> None:
        """Raise ValueError for the first of these fields that is below 1."""
        for name in names:
            if getattr(self, name) < 1:
                raise ValueError(f"{name}={getattr(self, name)} must be at least 1")

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
        Whose embedding to take, as :func:`newllm.training.embeddings.read_embedding` reads it, or ``random``; None
        means that of a baseline on the same data.
    embedding_digest
        Digest of the embedding that was taken, by which training knows that it was; not a setting.
    data_split
        What each context block is trained on: its own one of as many contiguous parts of the data (``disjoint``), or
        all of it (``full``).
    """

    # One step a token: that is how generation sizes its cache. Not a setting.
    num_hidden_layers = 1

    vocab_size: int = 50257
    hidden_size: int = 768
    tie_word_embeddings: bool = True
    freeze_embedding: bool = True
    embedding_source: str | None = None
    embedding_digest: str | None = None
    data_split: str = "disjoint"

    def validate_architecture(self) -> None:
        """Refuse what no model can have, naming the field."""
        super().validate_architecture()
        self.require_choice("data_split", ("disjoint", "full"))


@strict
class DecoderConfig(LanguageModelConfig):
    """Shape of a decoder; field names are GPT-NeoX's.

    Attributes
    ----------
    num_hidden_layers, num_attention_heads, intermediate_size
        L, H and the width of the MLP.
    num_key_value_heads
        Key-value heads G that the H query heads share; None means H.
    max_position_embeddings
        Longest sequence the model is meant for.
    position
        A :class:`PositionEncodingConfig`, its dictionary, or the name of an encoding.
    """

    num_hidden_layers: int = 6
    num_attention_heads: int = 8
    intermediate_size: int = 2048
    num_key_value_heads: int | None = None
    max_position_embeddings: int = 2048
    position: PositionEncodingConfig | dict | str = "rope"

    def __post_init__(self, **kwargs: Any) -> None:
        self.position = PositionEncodingConfig.parse(self.position)
        super().__post_init__(**kwargs)

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
        self.require_positive(
            "num_hidden_layers", "num_attention_heads", "intermediate_size", "max_position_embeddings"
        )
        if self.hidden_size % self.num_attention_heads:
            raise ValueError(
                f"hidden_size={self.hidden_size} must be a multiple of num_attention_heads={self.num_attention_heads}"
            )
        groups = self.num_key_value_heads
        if groups is not None and (groups < 1 or self.num_attention_heads % groups):
            raise ValueError(f"num_key_value_heads={groups} must divide num_attention_heads={self.num_attention_heads}")

    def refuse_head_groups(self) -> None:
        """Refuse shared key-value heads, for the methods in which they would mean nothing."""
        if self.num_key_value_heads is not None:
            raise ValueError(
                f"num_key_value_heads={self.num_key_value_heads} is not used by {self.model_type}: leave it out"
            )
