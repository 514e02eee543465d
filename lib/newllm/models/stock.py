"""Models of transformers in the shape of ours, for comparisons side by side."""

from typing import Any

from transformers import DeepseekV3Config, DeepseekV3ForCausalLM, GPTNeoXConfig, GPTNeoXForCausalLM

from newllm.models import configure
from newllm.models.methods.mla import MLAPythiaConfig
from newllm.models.methods.pythia import PythiaConfig


def gpt_neox_like(size: str = "70m", **overrides: Any) -> GPTNeoXForCausalLM:
    """Make a GPTNeoXForCausalLM with random weights in the shape of ``create("pythia", size, **overrides)``."""
    config = configure("pythia", size, **overrides)
    assert isinstance(config, PythiaConfig)
    return GPTNeoXForCausalLM(
        GPTNeoXConfig(
            vocab_size=config.vocab_size,
            hidden_size=config.hidden_size,
            num_hidden_layers=config.num_hidden_layers,
            num_attention_heads=config.num_attention_heads,
            intermediate_size=config.intermediate_size,
            max_position_embeddings=config.max_position_embeddings,
        )
    )


def deepseek_like(size: str = "70m", **overrides: Any) -> DeepseekV3ForCausalLM:
    """Make a DeepseekV3ForCausalLM with random weights in the shape of ``create("mla", size, **overrides)``.

    The same heads, latent and rotary key, queries uncompressed, a dense MLP of the same width in every layer. It caches
    latents too, and expands all of them to keys and values in every step.
    """
    config = configure("mla", size, **overrides)
    assert isinstance(config, MLAPythiaConfig)
    head_dim = config.hidden_size // config.num_attention_heads
    return DeepseekV3ForCausalLM(
        DeepseekV3Config(
            vocab_size=config.vocab_size,
            hidden_size=config.hidden_size,
            num_hidden_layers=config.num_hidden_layers,
            num_attention_heads=config.num_attention_heads,
            num_key_value_heads=config.num_attention_heads,
            intermediate_size=config.intermediate_size,
            max_position_embeddings=config.max_position_embeddings,
            kv_lora_rank=config.kv_dim,
            q_lora_rank=None,
            qk_nope_head_dim=head_dim,
            qk_rope_head_dim=config.rotary_dim,
            v_head_dim=head_dim,
            # Layers before this one have a dense MLP: all of them.
            first_k_dense_replace=config.num_hidden_layers,
            num_mtp_layers=0,
        )
    )
