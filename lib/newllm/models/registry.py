"""Every model by its name: what ``create`` builds and what notebooks offer."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeVar

from huggingface_hub.errors import StrictDataclassError
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedConfig
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

from newllm.models.config import LanguageModelConfig
from newllm.models.language_model import LanguageModel
from newllm.models.position import PositionEncodingConfig
from newllm.wording import did_you_mean

PYTHIA_VOCABULARY = 50304
GPT2_VOCABULARY = 50257
SMOLLM2_VOCABULARY = 49152
# What all other models are compared with.
BASELINE = "pythia"
# The baseline on Llama's blocks.
LLAMA = "llama"


@dataclass(frozen=True)
class Size:
    """A point of the size dial, in the shape of the baseline.

    Attributes
    ----------
    layers, width, heads
        L, d and H of the baseline.
    vocabulary
        Number of token ids V.
    chunk_size
        Tokens a chunk, for the models that remember by chunks.
    gated_width, key_value_heads
        Width of the MLP and key-value heads of a Llama, where they are not those of a rule.
    rotary_base
        Base of a Llama's RoPE.
    """

    layers: int
    width: int
    heads: int
    vocabulary: int = PYTHIA_VOCABULARY
    chunk_size: int = 100
    gated_width: int | None = None
    key_value_heads: int | None = None
    rotary_base: float = 10000.0

    def scaled(self, numerator: int, denominator: int) -> int:
        """Return that fraction of the width, rounded up to a multiple of the heads."""
        exact = self.width * numerator
        step = denominator * self.heads
        return -(-exact // step) * self.heads

    @property
    def gpt2_shape(self) -> dict[str, int]:
        """Width and vocabulary of the models that are shaped after GPT-2, as config fields.

        Beside the Pythia suite they have GPT-2's vocabulary and 3/2 of the width: GPT-2's 768 at 70m. At the small
        sizes they keep both, so that they can take over the embedding of a baseline that was trained here.
        """
        if self.vocabulary == PYTHIA_VOCABULARY:
            return {"hidden_size": self.width * 3 // 2, "vocab_size": GPT2_VOCABULARY}
        return {"hidden_size": self.width, "vocab_size": self.vocabulary}


SIZES: dict[str, Size] = {
    "tiny": Size(2, 64, 4, vocabulary=512, chunk_size=8),
    "mini": Size(4, 256, 4, vocabulary=4096),
    "70m": Size(6, 512, 8),
    "160m": Size(12, 768, 12),
    "410m": Size(24, 1024, 16),
    "1b": Size(16, 2048, 8),
    "1.4b": Size(24, 2048, 16),
    # Llamas (Ben Allal et al. 2025, https://arxiv.org/abs/2502.02737); other models take their depth, width and heads.
    "smollm2-135m": Size(30, 576, 9, SMOLLM2_VOCABULARY, key_value_heads=3, rotary_base=100000.0),
    "smollm2-360m": Size(32, 960, 15, SMOLLM2_VOCABULARY, key_value_heads=5, rotary_base=100000.0),
    "smollm2-1.7b": Size(24, 2048, 32, SMOLLM2_VOCABULARY, gated_width=8192, key_value_heads=32, rotary_base=130000.0),
}


@dataclass(frozen=True)
class Paper:
    """Where a method was published: authors as a text cites them, year and address."""

    authors: str
    year: int
    address: str


@dataclass(frozen=True)
class Method:
    """One way of remembering, as the registry knows it."""

    name: str
    model_class: type[LanguageModel]
    shape: Callable[[Size], dict[str, Any]]
    summary: str
    control: str | None = None
    papers: tuple[Paper, ...] = ()

    @property
    def config_class(self) -> type[LanguageModelConfig]:
        """The model's config class."""
        config_class = self.model_class.config_class
        assert config_class is not None and issubclass(config_class, LanguageModelConfig)
        return config_class

    @property
    def settings(self) -> frozenset[str]:
        """What users may set, each of which makes another model: fields of its config, and of its position encoding."""
        fields = self.config_class.settings()
        return fields | PositionEncodingConfig.settings() if "position" in fields else fields


METHODS: dict[str, Method] = {}

ModelClass = TypeVar("ModelClass", bound=type[LanguageModel])


def register(
    name: str,
    shape: Callable[[Size], dict[str, Any]],
    *,
    summary: str,
    control: str | None = None,
    papers: tuple[Paper, ...] = (),
) -> Callable[[ModelClass], ModelClass]:
    """Put a model class into the registry and among transformers' Auto classes.

    Parameters
    ----------
    name
        What users write.
    shape
        The config fields in which this model differs from the baseline of a given size.
    summary
        One line for tables and the overview: what is remembered.
    control
        The method beside which this one stands as a control, because as many bytes are added by a token at the 70m
        shape, however many there were before; a control claims no saving itself.
    papers
        Where it was published; empty for what is new here.
    """

    def add(model_class: ModelClass) -> ModelClass:
        method = METHODS[name] = Method(name, model_class, shape, summary, control, papers)
        AutoConfig.register(method.config_class.model_type, method.config_class, exist_ok=True)
        # By this list a Trainer knows that label smoothing has to shift the labels.
        MODEL_FOR_CAUSAL_LM_MAPPING_NAMES[method.config_class.model_type] = model_class.__name__
        AutoModelForCausalLM.register(method.config_class, model_class, exist_ok=True)
        return model_class

    return add


def _lookup(kind: str, key: str, table: dict[str, Any]) -> Any:
    if key in table:
        return table[key]
    raise ValueError(f"{kind}={key!r} is unknown{did_you_mean(str(key), table)}: choose one of {sorted(table)}")


def find(name: str) -> Method:
    """Look a method up by name; ValueError names the known ones."""
    method: Method = _lookup("model", name, METHODS)
    return method


def configure(name: str, size: str = "70m", **overrides: Any) -> PreTrainedConfig:
    """Make the config of a model: the size's shape, the method's own fields, then ``overrides``.

    Raises
    ------
    ValueError
        For an unknown name, size or field, or a value that no model can have.
    """
    method = find(name)
    shape: Size = _lookup("size", size, SIZES)
    config_class = method.config_class
    settings = method.settings
    baseline = {
        "vocab_size": shape.vocabulary,
        "hidden_size": shape.width,
        "num_hidden_layers": shape.layers,
        "num_attention_heads": shape.heads,
        "intermediate_size": 4 * shape.width,
    }
    for key in overrides:
        if key not in settings:
            hint = did_you_mean(key, settings)
            raise ValueError(f"{name} has no setting {key!r}{hint}: it has {', '.join(sorted(settings))}")
    try:
        # A model without layers or heads has no such settings.
        values = {key: value for key, value in baseline.items() if key in settings} | method.shape(shape)
        values |= {key: _as_real(config_class, key, value) for key, value in overrides.items()}
        of_position = {key: values.pop(key) for key in PositionEncodingConfig.settings() & overrides.keys()}
        if of_position:
            default = config_class.__dataclass_fields__["position"].default
            values["position"] = PositionEncodingConfig.combine(values.get("position", default), of_position)
        return config_class(**values)
    except (StrictDataclassError, TypeError, ValueError) as error:
        # transformers wraps a field's own sentence in its validation errors; the sentence is what helps.
        reason = error.__cause__ or error
        raise ValueError(f"cannot build {name} at size {size}: {' '.join(str(reason).split())}") from error


def _as_real(config_class: type[PreTrainedConfig], key: str, value: Any) -> Any:
    """Read a whole number as a real one where the field is real, as Python does everywhere else."""
    field = config_class.__dataclass_fields__.get(key)
    return float(value) if field is not None and type(field.default) is float and type(value) is int else value


def create(name: str, size: str = "70m", **overrides: Any) -> LanguageModel:
    """Build any model with random weights.

    Parameters
    ----------
    name
        One of `names`.
    size
        One of `sizes`.
    overrides
        Settings of the model, such as ``kv_dim=64``, ``position="alibi"``, ``alibi_slope=0.25`` or ``vocab_size=8192``.

    Raises
    ------
    ValueError
        For an unknown name, size or field, or a value that no model can have.
    """
    config = configure(name, size, **overrides)
    return find(name).model_class(config)


def controls() -> list[str]:
    """Return the models that are controls of others."""
    return sorted(name for name, method in METHODS.items() if method.control is not None)


def names() -> list[str]:
    """Return all models that `create` builds."""
    return sorted(METHODS)


def sizes() -> list[str]:
    """Return all sizes, smallest first."""
    return list(SIZES)
