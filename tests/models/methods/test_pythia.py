"""Pythia equals transformers' GPTNeoXForCausalLM, and shares its checkpoints both ways."""

import pytest
import torch
import torch.nn.functional as F
from transformers import GPTNeoXConfig, GPTNeoXForCausalLM

from newllm.models import create
from newllm.models.methods.pythia import PythiaModel

IDS = torch.randint(512, (2, 40), generator=torch.Generator().manual_seed(0))


def gpt_neox(seed, **settings):
    torch.manual_seed(seed)
    shape = dict(
        vocab_size=512, hidden_size=64, num_hidden_layers=2, num_attention_heads=4, intermediate_size=256, **settings
    )
    return GPTNeoXForCausalLM(GPTNeoXConfig(**shape)).double().eval()


@pytest.mark.parametrize("rope", [{}, {"rotary_pct": 0.5, "rotary_emb_base": 500}])
def test_reads_a_published_checkpoint(tmp_path, rope):
    theirs = gpt_neox(0, **rope)
    theirs.save_pretrained(tmp_path)
    ours, info = PythiaModel.from_pretrained(tmp_path, dtype=torch.float64, output_loading_info=True)
    assert not any(info.values()), info
    assert torch.allclose(ours(IDS).logits, theirs(IDS).logits, atol=1e-9, rtol=0)
    mask = torch.ones_like(IDS)
    mask[0, :7] = 0
    positions = (mask.cumsum(1) - 1).clamp(min=0)
    masked = ours(IDS, attention_mask=mask).logits - theirs(IDS, attention_mask=mask, position_ids=positions).logits
    assert masked[mask.bool()].abs().max() < 1e-9


def test_gpt_neox_reads_our_checkpoint(tmp_path):
    ours = create("pythia", "tiny").double().eval()
    ours.save_pretrained(tmp_path)
    theirs, info = GPTNeoXForCausalLM.from_pretrained(tmp_path, dtype=torch.float64, output_loading_info=True)
    assert not any(info.values()), info
    assert torch.allclose(ours(IDS).logits, theirs.eval()(IDS).logits, atol=1e-9, rtol=0)


def test_loss_and_gradients_equal_gpt_neox(tmp_path):
    theirs = gpt_neox(1)
    theirs.save_pretrained(tmp_path)
    ours = PythiaModel.from_pretrained(tmp_path, dtype=torch.float64).train()
    our_loss = ours(IDS, labels=IDS).loss
    # From their logits, because transformers rounds them to float32 before its own loss.
    their_loss = F.cross_entropy(theirs(IDS).logits[:, :-1].flatten(0, 1), IDS[:, 1:].flatten())
    our_loss.backward()
    their_loss.backward()
    assert our_loss.item() == pytest.approx(their_loss.item(), abs=1e-9)
    references = dict(theirs.named_parameters())
    for name, parameter in ours.named_parameters():
        # transformers holds the head under another name than it saves it under.
        reference = references[name if name in references else "lm_head.weight"]
        assert torch.allclose(parameter.grad, reference.grad, atol=1e-9, rtol=0), name


@pytest.mark.parametrize("field", [{"use_parallel_residual": False}, {"hidden_act": "relu"}, {"attention_bias": False}])
def test_refuses_what_it_would_not_compute(tmp_path, field):
    GPTNeoXConfig(hidden_size=64, num_attention_heads=4, **field).save_pretrained(tmp_path)
    with pytest.raises(Exception, match=next(iter(field))):
        PythiaModel.config_class.from_pretrained(tmp_path)


@pytest.mark.parametrize("groups", [1, 2])
def test_grouped_keys_equal_repeated_ones(groups):
    """A grouped model is the full one whose heads of a group share keys and values."""
    torch.manual_seed(0)
    grouped = create("pythia", "tiny", num_key_value_heads=groups).double().eval()
    full = create("pythia", "tiny").double().eval()
    heads, width = 4, 16
    per_group = heads // groups
    weights = grouped.state_dict()
    for name, tensor in grouped.state_dict().items():
        if "query_key_value" in name:
            parts = tensor.view(groups, per_group + 2, width, *tensor.shape[1:])
            key, value = parts[:, -2:-1].expand_as(parts[:, :-2]), parts[:, -1:].expand_as(parts[:, :-2])
            weights[name] = torch.stack([parts[:, :-2], key, value], 2).reshape(-1, *tensor.shape[1:])
    full.load_state_dict(weights)
    assert torch.allclose(grouped(IDS).logits, full(IDS).logits, atol=1e-12, rtol=0)
