"""Pythia (Biderman et al. 2023): the baseline, its position encoding to choose, and two controls of equal cache."""

from typing import Any

from huggingface_hub.dataclasses import strict

from newllm.models.config import DecoderConfig
from newllm.models.decoder import Decoder
from newllm.models.registry import Paper, Size, register

PYTHIA = Paper("Biderman et al.", 2023, "https://arxiv.org/abs/2304.01373")
ROPE = Paper("Su et al.", 2021, "https://arxiv.org/abs/2104.09864")
ALIBI = Paper("Press et al.", 2021, "https://arxiv.org/abs/2108.12409")
NO_ENCODING = Paper("Kazemnejad et al.", 2023, "https://arxiv.org/abs/2305.19466")
SHARED_KEYS_AND_VALUES = Paper("Shazeer", 2019, "https://arxiv.org/abs/1911.02150")


@strict
class PythiaConfig(DecoderConfig):
    """A GPT-NeoX shape. Reads the published ``config.json`` too, and refuses what it would not compute."""

    model_type = "newllm-pythia"

    def __post_init__(self, **kwargs: Any) -> None:
        # How GPT-NeoX configs name their rotary settings, before and since transformers 5.
        rope = kwargs.pop("rope_parameters", None) or {}
        fraction = rope.get("partial_rotary_factor", kwargs.pop("rotary_pct", None))
        base = rope.get("rope_theta", kwargs.pop("rotary_emb_base", None))
        if rope.get("rope_type", "default") != "default":
            raise ValueError(f"rope_type={rope['rope_type']!r} is not supported: only the default rotary encoding is")
        if fraction is not None or base is not None:
            self.position = {
                "type": "rope",
                "rotary_fraction": 0.25 if fraction is None else fraction,
                "rotary_base": 10000.0 if base is None else float(base),
            }
        for name, expected in (("use_parallel_residual", True), ("hidden_act", "gelu"), ("attention_bias", True)):
            if kwargs.get(name, expected) != expected:
                raise ValueError(f"{name}={kwargs[name]!r} is not supported: Pythia has {expected!r}")
        super().__post_init__(**kwargs)


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
    summary="a control: Pythia at 5/8 of the width, dproj's bytes",
    control="dproj",
    papers=(PYTHIA,),
)
@register(
    "mqa",
    lambda size: {"num_key_value_heads": _heads_of_a_latent(size)},
    summary="a control: Pythia with one key-value head, or few, mla's bytes",
    control="mla",
    papers=(SHARED_KEYS_AND_VALUES,),
)
class PythiaModel(Decoder):
    """GPT-NeoX decoder; equals transformers' ``GPTNeoXForCausalLM`` and shares its checkpoints by name."""

    config_class = PythiaConfig
