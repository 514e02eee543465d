"""Pythia equals transformers' GPTNeoXForCausalLM, and shares its checkpoints both ways."""

import json
from pathlib import Path
from typing import Any

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


def saved(folder: Path, change: dict[str, Any] | None = None, **settings: Any) -> GPTNeoXForCausalLM:
    """Save a GPT-NeoX whose every weight matters, its config.json changed afterwards."""
    theirs = gpt_neox(0, **settings)
    with torch.no_grad():
        for weight in theirs.parameters():
            weight.add_(0.1 * torch.randn_like(weight))
    theirs.save_pretrained(folder)
    file = folder / "config.json"
    written = json.loads(file.read_text()) | (change or {})
    file.write_text(json.dumps({name: value for name, value in written.items() if value is not LEFT_OUT}))
    return GPTNeoXForCausalLM.from_pretrained(folder, dtype=torch.float64).eval()


LEFT_OUT = object()


@pytest.mark.parametrize(
    "change",
    [
        {},
        {"rope_parameters": None, "rotary_pct": 0.5, "rotary_emb_base": 500},
        {"rope_parameters": None, "rotary_pct": 1.0},
        {"rope_parameters": None, "rotary_emb_base": 500},
        {"rope_parameters": {"rope_type": "default", "rope_theta": 500.0, "partial_rotary_factor": 0.5}},
        {"rope_parameters": {"rope_theta": 500.0}},
        {"rope_parameters": {"type": "default", "partial_rotary_factor": 0.3}},
        {"rope_parameters": None, "rope_scaling": {"type": "default"}, "rotary_pct": 0.5},
        # As transformers reads it: the newer spelling counts.
        {"rotary_pct": 0.5},
        {"rope_theta": 10000.0, "partial_rotary_factor": 0.25},
        {"layer_norm_eps": 1e-2},
        {"max_position_embeddings": 16},
        {"initializer_range": 0.5, "use_cache": False, "is_decoder": True, "classifier_dropout": 0.3},
        {"eos_token_id": 7, "bos_token_id": None, "pad_token_id": 3, "chunk_size_feed_forward": 2},
        {
            "torch_dtype": "float16",
            "transformers_version": "4.24.0",
            "hidden_act": LEFT_OUT,
            "attention_bias": LEFT_OUT,
        },
        {"tie_word_embeddings": True},
    ],
)
def test_what_a_published_config_says_is_computed(tmp_path, change):
    theirs = saved(tmp_path, change)
    ours, info = PythiaModel.from_pretrained(tmp_path, dtype=torch.float64, output_loading_info=True)
    assert not any(info.values()), info
    assert torch.allclose(ours(IDS).logits, theirs(IDS).logits, atol=1e-9, rtol=0)
    assert not ours.config.tie_word_embeddings, "a file with a head of its own has it, whatever its flag says"
    ours.save_pretrained(tmp_path / "again")
    again = PythiaModel.from_pretrained(tmp_path / "again", dtype=torch.float64)
    assert torch.equal(again(IDS).logits, ours(IDS).logits)
    mask = torch.ones_like(IDS)
    mask[0, :7] = 0
    positions = (mask.cumsum(1) - 1).clamp(min=0)
    masked = ours(IDS, attention_mask=mask).logits - theirs(IDS, attention_mask=mask, position_ids=positions).logits
    assert masked[mask.bool()].abs().max() < 1e-9


def test_a_tied_head_is_the_embedding(tmp_path):
    theirs = saved(tmp_path, tie_word_embeddings=True)
    ours, info = PythiaModel.from_pretrained(tmp_path, dtype=torch.float64, output_loading_info=True)
    assert not any(info.values()), info
    assert ours.get_output_embeddings().weight is ours.get_input_embeddings().weight
    assert torch.allclose(ours(IDS).logits, theirs(IDS).logits, atol=1e-9, rtol=0)


def test_a_head_that_neither_file_nor_flag_gives_is_not_drawn_at_random(tmp_path):
    saved(tmp_path, {"tie_word_embeddings": False}, tie_word_embeddings=True)
    with pytest.raises(ValueError, match=r"holds no embed_out.weight, and its tie_word_embeddings is false"):
        PythiaModel.from_pretrained(tmp_path)


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"use_parallel_residual": False}, "use_parallel_residual"),
        ({"hidden_act": "relu"}, "hidden_act"),
        ({"hidden_act": "gelu_new"}, "hidden_act"),
        ({"attention_bias": False}, "attention_bias"),
        ({"attention_dropout": 0.1}, "attention_dropout"),
        ({"hidden_dropout": 0.1}, "hidden_dropout"),
        ({"rope_scaling": {"type": "linear", "factor": 2.0}}, "rope_type='linear'"),
        ({"rope_scaling": {"rope_type": "dynamic", "factor": 2.0}}, "rope_type='dynamic'"),
        ({"rope_parameters": {"rope_type": "yarn", "factor": 2.0}}, "rope_type='yarn'"),
        ({"rope_parameters": {"rope_type": "default", "factor": 2.0}}, "factor=2.0"),
        ({"rope_parameters": None, "rope_theta": 500.0}, "rope_theta=500.0"),
        ({"rope_parameters": None, "partial_rotary_factor": 0.5}, "partial_rotary_factor=0.5"),
        # Five of sixteen entries: GPT-NeoX turns them as three pairs.
        ({"rope_parameters": None, "rotary_pct": 0.32}, "partial_rotary_factor=0.32"),
        ({"rope_parameters": None, "rotary_pct": 0.05}, "partial_rotary_factor=0.05"),
        ({"sliding_window": 8}, "sliding_window=8"),
    ],
)
def test_refuses_what_it_would_not_compute(tmp_path, change, named):
    GPTNeoXConfig(hidden_size=64, num_attention_heads=4).save_pretrained(tmp_path)
    file = tmp_path / "config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | change))
    with pytest.raises(Exception, match=named) as caught:
        PythiaModel.config_class.from_pretrained(tmp_path)
    assert "\n" not in str(caught.value.__cause__ or caught.value)


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
