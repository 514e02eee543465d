"""One decode step of a whole 70m model: latents absorbed, latents expanded by transformers' DeepSeek-V3, GPT-NeoX.

Run with ``pytest tests/speed/test_decoding.py --benchmark-enable``; the ratio stands in brackets beside each time.
Caches of 8k and 16k tokens are filled by repetition, because transformers' DeepSeek-V3 takes minutes to prefill them.
Without the option everything is tiny.
"""

from collections.abc import Callable

import pytest
import torch
from pytest_benchmark.fixture import BenchmarkFixture
from transformers import PreTrainedModel

from newllm.evaluation.decoding import DecodingSession
from newllm.models import create
from newllm.models.methods.mla import MLAPythiaModel
from newllm.models.stock import deepseek_like, gpt_neox_like

COMPUTED_TOKENS = 256


def expanding_mla(size: str) -> PreTrainedModel:
    model = create("mla", size)
    assert isinstance(model, MLAPythiaModel)
    model.attention_path = "expanded"
    return model


MODELS: dict[str, Callable[[str], PreTrainedModel]] = {
    "mla": lambda size: create("mla", size),
    "mla, rotary key": lambda size: create("mla", size, position="rope"),
    "mla, expanded": expanding_mla,
    "mqa": lambda size: create("mqa", size),
    "DeepSeek-V3": deepseek_like,
    "GPT-NeoX": gpt_neox_like,
}


@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize("context", [8192, 16384])
def test_decode_step(benchmark: BenchmarkFixture, context: int, model: str) -> None:
    benchmark.group = f"one decode step, {context} tokens of context"
    torch.manual_seed(0)
    size, tokens = ("tiny", 300) if benchmark.disabled else ("70m", context)
    session = DecodingSession(MODELS[model](size), tokens)
    session.fill(tokens, computed=COMPUTED_TOKENS)
    benchmark.pedantic(session.decode, rounds=16, warmup_rounds=1)
    assert session.cache is not None
    assert session.cache.get_seq_length() > tokens
