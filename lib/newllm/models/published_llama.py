"""Reads the ``config.json`` of a Llama, or of one that computes the same, and writes one that transformers reads."""

import copy
from typing import Any

from transformers import LlamaConfig, PreTrainedConfig, Qwen2Config

from newllm.models.position import PositionEncodingConfig

# The model types that are read, with transformers' config of each, and which linear maps of its attention have biases.
READERS: dict[str, tuple[type[PreTrainedConfig], str]] = {
    "llama": (LlamaConfig, "none"),
    "qwen2": (Qwen2Config, "inputs"),
}

# Fields that mean the same here, under the same name.
SAME = (
    *("vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads"),
    *("num_key_value_heads", "max_position_embeddings", "initializer_range", "use_cache", "tie_word_embeddings"),
    *("bos_token_id", "eos_token_id", "pad_token_id"),
)
# What such a config may say otherwise, and what is computed here.
COMPUTED = {
    "hidden_act": "silu",
    "mlp_bias": False,
    "attention_dropout": 0.0,
    "pretraining_tp": 1,
    "sliding_window": None,
    "rope_interleaved": False,
}
# What it may hold that changes nothing of what is computed.
UNREAD = frozenset(
    {
        *("is_llama_config", "transformers.js_config", "max_window_layers", "use_sliding_window"),
        *("_model_name_or_path", "unk_token_id"),  # of GGUF files
    }
)
# Read below, each in its own way.
READ = frozenset(
    {
        *("head_dim", "rms_norm_eps", "attention_bias", "layer_types", "model_type"),
        *("rope_parameters", "rope_scaling", "rope_theta", "rotary_emb_base", "partial_rotary_factor"),
    }
)


def read_llama(given: dict[str, Any]) -> dict[str, Any]:
    """Say in this project's fields what the config of a Llama or a Qwen2 says.

    Parameters
    ----------
    given
        A ``config.json`` whose ``model_type`` is one of `READERS`; left as it is.

    Returns
    -------
    dict
        Fields of a `newllm.models.methods.pythia.PythiaConfig`, and what was not read, which that refuses.

    Raises
    ------
    ValueError
        For what those models can do and is not done here, naming the field.
    """
    config_class, biases = READERS[given["model_type"]]
    theirs = config_class(**copy.deepcopy(given))
    for name, expected in COMPUTED.items():
        value = getattr(theirs, name, None)
        if value not in (None, expected):
            raise ValueError(f"{name}={value!r} is not supported: the Llama of this project has {expected!r}")
    shape = {name: getattr(theirs, name) for name in SAME}
    head_dim = getattr(theirs, "head_dim", None)
    if head_dim not in (None, shape["hidden_size"] // shape["num_attention_heads"]):
        raise ValueError(f"head_dim={head_dim} is not supported: heads share out hidden_size={shape['hidden_size']}")
    if set(getattr(theirs, "layer_types", None) or ["full_attention"]) != {"full_attention"}:
        raise ValueError("layer_types is not supported: every layer sees all tokens")
    rotary = {key: value for key, value in dict(theirs.rope_parameters or {}).items() if value is not None}
    rotary.pop("type", None)
    kind, base = rotary.pop("rope_type", "default"), rotary.pop("rope_theta", 10000.0)
    if kind != "default":
        raise ValueError(f"rope_type={kind!r} is not supported: only the default rotary encoding is")
    if rotary.pop("partial_rotary_factor", 1.0) != 1.0 or rotary:
        raise ValueError(
            f"rope_parameters={theirs.rope_parameters} is not supported: a Llama turns the whole of a head"
        )
    known = {*SAME, *COMPUTED, *UNREAD, *READ}
    return (
        {name: value for name, value in given.items() if name not in known}
        | shape
        | {
            "backbone": "llama",
            "attention_biases": "all" if getattr(theirs, "attention_bias", False) else biases,
            "layer_norm_eps": theirs.rms_norm_eps,
            "position": PositionEncodingConfig("rope", rotary_fraction=1.0, rotary_base=float(base)),
        }
    )


def written_for_llama(eps: float, biases: str, position: PositionEncodingConfig) -> dict[str, Any]:
    """Say in Llama's fields what its config calls otherwise, so that transformers' LlamaForCausalLM reads it too."""
    written: dict[str, Any] = {"rms_norm_eps": eps, "attention_bias": biases == "all"}
    if position.type == "rope":
        written["rope_parameters"] = {"rope_type": "default", "rope_theta": position.rotary_base}
    return written
