"""Llama (Touvron et al. 2023): the baseline on the other backbone, with grouped heads and a tied head."""

from newllm.models.methods.pythia import PythiaModel
from newllm.models.registry import Paper, Size, register

LLAMA = Paper("Touvron et al.", 2023, "https://arxiv.org/abs/2302.13971")


def _shape(size: Size) -> dict[str, object]:
    """Shape of a Llama: an MLP of 8/3 of the width in multiples of 64, and half as many key-value heads, where free."""
    return {
        "backbone": "llama",
        "tie_word_embeddings": True,
        "intermediate_size": size.gated_width or -(-size.width * 8 // (3 * 64)) * 64,
        "num_key_value_heads": size.key_value_heads or max(1, size.heads // 2),
        "position": {"type": "rope", "rotary_base": size.rotary_base},
    }


register(
    "llama",
    _shape,
    summary="the baseline on Llama's blocks: keys and values of every token, shared by groups of heads, in every layer",
    papers=(LLAMA,),
)(PythiaModel)
