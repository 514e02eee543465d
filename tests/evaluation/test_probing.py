"""A probe is the model in float64, and in nothing less."""

import copy

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedModel

from newllm.evaluation.probing import probe_copy
from newllm.models import create

STOCK = LlamaConfig(
    vocab_size=64,
    hidden_size=32,
    intermediate_size=64,
    num_hidden_layers=2,
    num_attention_heads=4,
    num_key_value_heads=2,
)

# So near to one another, some of thousands of entries are rounded apart in float32, by a hundred times as much.
NUDGE = 1e-9


@pytest.mark.parametrize("name", ["llama", "stock"])
def test_a_probe_of_norms_that_round_to_float32_does_not_round(name):
    torch.manual_seed(0)
    model = create("llama", "tiny").eval() if name == "llama" else LlamaForCausalLM(STOCK).eval()
    ids = torch.arange(40)[None]
    rounding, probed = copy.deepcopy(model).double(), probe_copy(model)

    def change_by_a_nudge(of: PreTrainedModel) -> float:
        embeds = of.get_input_embeddings()(ids)
        nudge = 1 + NUDGE * torch.randn(embeds.shape, generator=torch.Generator().manual_seed(1)).double()
        return (of(inputs_embeds=embeds * nudge).logits - of(inputs_embeds=embeds).logits).abs().max().item()

    with torch.no_grad():
        assert change_by_a_nudge(rounding) > 10 * NUDGE
        assert 0 < change_by_a_nudge(probed) < 2 * NUDGE
        assert (probed(ids).logits - rounding(ids).logits).abs().max() < 1e-6
        assert torch.equal(model(ids).logits, copy.deepcopy(model)(ids).logits)
