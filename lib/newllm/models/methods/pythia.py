"""Pythia (Biderman et al. 2023): the baseline, its position encoding to choose, and two controls of equal cache."""

import copy
from typing import Any, Self

from huggingface_hub.dataclasses import strict
from transformers import GPTNeoXConfig

from newllm.models.config import ATTENTION_BIASES, GroupedDecoderConfig
from newllm.models.decoder import Decoder
from newllm.models.position import PositionEncodingConfig
from newllm.models.published_llama import READERS, read_llama, written_for_llama
from newllm.models.registry import Paper, Size, register

PYTHIA = Paper("Biderman et al.", 2023, "https://arxiv.org/abs/2304.01373")
ROPE = Paper("Su et al.", 2021, "https://arxiv.org/abs/2104.09864")
ALIBI = Paper("Press et al.", 2021, "https://arxiv.org/abs/2108.12409")
NO_ENCODING = Paper("Kazemnejad et al.", 2023, "https://arxiv.org/abs/2305.19466")
SHARED_KEYS_AND_VALUES = Paper("Shazeer", 2019, "https://arxiv.org/abs/1911.02150")

# What GPT-NeoX configs may say otherwise, and what is computed here; the names of dropouts stand for training.
COMPUTED = {
    "hidden_act": "gelu",
    "attention_bias": True,
    "use_parallel_residual": True,
    "attention_dropout": 0.0,
    "hidden_dropout": 0.0,
}
# What they hold that a causal language model does not read.
UNREAD = ("classifier_dropout", "is_decoder")
# All spellings of RoPE's settings, before and since transformers 5.
ROTARY = ("rope_parameters", "rope_scaling", "rotary_pct", "rotary_emb_base", "rope_theta", "partial_rotary_factor")


@strict
class PythiaConfig(GroupedDecoderConfig):
    """A GPT-NeoX or Llama shape. Reads their published ``config.json`` too, and refuses what it would not compute.

    Attributes
    ----------
    attention_biases
        Which linear maps of attention have a bias: ``none``, ``inputs`` (those that make queries, keys and values, as
        in Qwen2) or ``all``; None stands for all in GPT-NeoX and none in Llama.
    """

    model_type = "newllm-pythia"

    attention_biases: str | None = None

    @classmethod
    def from_dict(cls, config_dict: dict[str, Any], **kwargs: Any) -> Self:
        """Make a config of what a ``config.json`` holds, also of a Llama's or a Qwen2's."""
        if config_dict.get("model_type") in READERS:
            config_dict = read_llama(config_dict)
        elif config_dict.get("backbone") == "llama":
            # Written for transformers, see `to_dict`: it says again what other fields say.
            again = written_for_llama(1.0, "none", PositionEncodingConfig())
            config_dict = {name: value for name, value in config_dict.items() if name not in again}
        return super().from_dict(config_dict, **kwargs)

    def to_dict(self) -> dict[str, Any]:
        """Return the JSON-serialisable form; a Llama's holds what transformers' Llama calls by other names, too."""
        plain = super().to_dict()
        if self.backbone == "llama":
            position = PositionEncodingConfig.parse(self.position)
            plain |= written_for_llama(self.layer_norm_eps, self.bias_of_attention(), position)
        return plain

    def bias_of_attention(self) -> str:
        """Which linear maps of attention have a bias, one of `ATTENTION_BIASES`."""
        return self.attention_biases or super().bias_of_attention()

    def validate_architecture(self) -> None:
        """Refuse shapes that no model can have, naming the field."""
        super().validate_architecture()
        if self.attention_biases is not None:
            self.require_choice("attention_biases", ATTENTION_BIASES)

    def __post_init__(self, **kwargs: Any) -> None:
        # One way to say what is usual, so that equal models have equal configurations.
        if self.attention_biases == super().bias_of_attention():
            self.attention_biases = None
        for name, expected in COMPUTED.items():
            value = kwargs.pop(name, None)
            if value not in (None, expected):
                raise ValueError(f"{name}={value!r} is not supported: Pythia has {expected!r}")
        for name in UNREAD:
            kwargs.pop(name, None)
        rotary = {name: value for name in ROTARY if (value := kwargs.pop(name, None)) is not None}
        if rotary:
            read, given = self._read_rotary(rotary), PositionEncodingConfig.parse(self.position)
            if given not in (PositionEncodingConfig(), read):
                raise ValueError(
                    f"position={given.type!r} and {next(iter(rotary))} say different things of the position encoding: "
                    "leave one out"
                )
            self.position = read
        super().__post_init__(**kwargs)

    def _read_rotary(self, given: dict[str, Any]) -> PositionEncodingConfig:
        """Read RoPE's settings as GPT-NeoX does, in any spelling; ValueError for what it does and is not done here."""
        read = GPTNeoXConfig(
            hidden_size=self.hidden_size,
            num_attention_heads=self.num_attention_heads,
            max_position_embeddings=self.max_position_embeddings,
            **copy.deepcopy(given),
        ).rope_parameters
        settings = {name: value for name, value in dict(read or {}).items() if value is not None}
        settings.pop("type", None)
        kind, fraction, base = (settings.pop(name) for name in ("rope_type", "partial_rotary_factor", "rope_theta"))
        if kind != "default":
            raise ValueError(f"rope_type={kind!r} is not supported: only the default rotary encoding is")
        for name, value in settings.items():
            raise ValueError(f"{name}={value!r} is not supported: the default rotary encoding has no such setting")
        for name, value in (("rope_theta", base), ("partial_rotary_factor", fraction)):
            if given.get(name, value) != value:
                raise ValueError(f"{name}={given[name]!r} is not read by GPT-NeoX, which takes {value!r}: correct it")
        width = int(self.hidden_size // self.num_attention_heads * fraction)
        if width < 2 or width % 2:
            raise ValueError(f"partial_rotary_factor={fraction} turns {width} entries of a head: RoPE here turns pairs")
        return PositionEncodingConfig("rope", rotary_fraction=float(fraction), rotary_base=float(base))


def _heads_of_a_latent(size: Size) -> int:
    """Key-value heads that are together no wider than the latent of ``mla``, a quarter of the width; at least one."""
    return max(1, size.heads // 8)


@register(
    "pythia",
    lambda size: {},
    summary="the baseline: keys and values of every token, in every layer",
    papers=(PYTHIA,),
)
@register(
    "unified",
    lambda size: {},
    summary="the baseline with a choice of position encoding",
    papers=(ROPE, ALIBI, NO_ENCODING),
)
@register(
    "narrow",
    lambda size: {
        "hidden_size": size.scaled(5, 8),
        "intermediate_size": 4 * size.scaled(5, 8),
    },
    summary="a control: a narrower Pythia; at 5/8 of the width it has dproj's bytes",
    control="dproj",
    papers=(PYTHIA,),
)
@register(
    "mqa",
    lambda size: {"num_key_value_heads": _heads_of_a_latent(size)},
    summary="a control: Pythia whose heads share keys and values; usually as many of them as mla's bytes hold, or one",
    control="mla",
    papers=(SHARED_KEYS_AND_VALUES,),
)
class PythiaModel(Decoder):
    """The baseline on either backbone: equals transformers' ``GPTNeoXForCausalLM``, or ``LlamaForCausalLM``.

    Checkpoints of theirs load by name, and the other way round.
    """

    config_class = PythiaConfig
