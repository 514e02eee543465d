"""The baseline on Llama's blocks equals transformers' LlamaForCausalLM, and shares its checkpoints both ways."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from transformers import (
    AutoModelForCausalLM,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedModel,
    Qwen2Config,
    Qwen2ForCausalLM,
)

from newllm.models import create
from newllm.models.methods.pythia import PythiaModel
from newllm.runs.saved_model import load_model

IDS = torch.randint(1, 512, (2, 40), generator=torch.Generator().manual_seed(0))
SHAPE: dict[str, Any] = {
    "vocab_size": 512,
    "hidden_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "intermediate_size": 192,
}


def shaken(model: PreTrainedModel) -> PreTrainedModel:
    """A model in float64 whose every weight matters."""
    model = model.double().eval()
    with torch.no_grad():
        for weight in model.parameters():
            weight.add_(0.1 * torch.randn_like(weight))
    return model


def llama(seed: int = 0, **settings: Any) -> PreTrainedModel:
    torch.manual_seed(seed)
    return shaken(LlamaForCausalLM(LlamaConfig(**SHAPE | settings)))


def qwen2(seed: int = 0, **settings: Any) -> PreTrainedModel:
    torch.manual_seed(seed)
    return shaken(Qwen2ForCausalLM(Qwen2Config(**SHAPE | settings)))


def read(folder: Path) -> PythiaModel:
    loaded: Any = PythiaModel.from_pretrained(folder, dtype=torch.float64, output_loading_info=True)
    ours, info = loaded
    assert not any(info.values()), info
    return ours.eval()


MODELS = {
    "llama": lambda: llama(),
    "tied": lambda: llama(tie_word_embeddings=True),
    "all heads": lambda: llama(num_key_value_heads=4),
    "one head": lambda: llama(num_key_value_heads=1),
    "biases": lambda: llama(attention_bias=True),
    "qwen2": lambda: qwen2(tie_word_embeddings=True),
    "another base and eps": lambda: llama(
        rms_norm_eps=1e-2, rope_parameters={"rope_type": "default", "rope_theta": 500.0}
    ),
}


@pytest.mark.parametrize("kind", MODELS)
def test_logits_are_equal_also_with_padding_on_the_left(tmp_path, kind):
    theirs = MODELS[kind]()
    theirs.save_pretrained(tmp_path)
    ours = read(tmp_path)
    assert torch.allclose(ours(IDS).logits, theirs(IDS).logits, atol=1e-9, rtol=0)
    mask = torch.ones_like(IDS)
    mask[0, :7] = 0
    positions = (mask.cumsum(1) - 1).clamp(min=0)
    masked = ours(IDS, attention_mask=mask).logits - theirs(IDS, attention_mask=mask, position_ids=positions).logits
    assert masked[mask.bool()].abs().max() < 1e-9
    loaded = load_model(tmp_path)
    assert isinstance(loaded, PythiaModel) and loaded.config.backbone == "llama"


@pytest.mark.parametrize("kind", ["llama", "biases", "qwen2"])
def test_loss_gradients_and_generation_are_equal(tmp_path, kind):
    theirs = MODELS[kind]()
    theirs.save_pretrained(tmp_path)
    ours = read(tmp_path)
    arguments: dict[str, Any] = {"max_new_tokens": 15, "do_sample": False, "eos_token_id": None, "pad_token_id": 0}
    mask = torch.ones_like(IDS[:, :9])
    mask[1, :4] = 0
    for given in ({}, {"attention_mask": mask}):
        assert torch.equal(*(model.generate(IDS[:, :9], **given, **arguments) for model in (ours, theirs)))
    our_loss = ours.train()(IDS, labels=IDS).loss
    # From their logits, because transformers rounds them to float32 before its own loss.
    their_loss = F.cross_entropy(theirs(IDS).logits[:, :-1].flatten(0, 1), IDS[:, 1:].flatten())
    our_loss.backward()
    their_loss.backward()
    assert our_loss.item() == pytest.approx(their_loss.item(), abs=1e-9)
    references = dict(theirs.named_parameters())
    for name, parameter in ours.named_parameters():
        assert torch.allclose(parameter.grad, references[name].grad, atol=1e-9, rtol=0), name


@pytest.mark.parametrize("settings", [{}, {"tie_word_embeddings": False, "attention_biases": "all"}])
def test_transformers_reads_our_checkpoint(tmp_path, settings):
    position = {"type": "rope", "rotary_base": 500.0}
    ours = shaken(create("llama", "tiny", position=position, layer_norm_eps=1e-3, **settings))
    ours.save_pretrained(tmp_path)
    theirs, info = LlamaForCausalLM.from_pretrained(tmp_path, dtype=torch.float64, output_loading_info=True)
    assert not any(info.values()), info
    assert torch.allclose(ours(IDS).logits, theirs.eval()(IDS).logits, atol=1e-9, rtol=0)
    again = AutoModelForCausalLM.from_pretrained(tmp_path, dtype=torch.float64).eval()
    assert type(again) is PythiaModel
    assert torch.equal(again(IDS).logits, ours(IDS).logits)
    assert again.config.position == ours.config.position


def test_the_smollm2_family_has_its_published_sizes():
    """Parameters of the checkpoints (Ben Allal et al. 2025), the tied head counted once."""
    published = {"135m": 134_515_008, "360m": 361_821_120, "1.7b": 1_711_376_384}
    for size, count in published.items():
        with torch.device("meta"):
            model = create("llama", f"smollm2-{size}")
        assert model.num_parameters() == count
        values_per_token = model.cached_values(9) - model.cached_values(8)
        assert values_per_token == {"135m": 30 * 2 * 3 * 64, "360m": 32 * 2 * 5 * 64, "1.7b": 24 * 2 * 2048}[size]


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"hidden_act": "gelu"}, "hidden_act"),
        ({"mlp_bias": True}, "mlp_bias"),
        ({"attention_dropout": 0.1}, "attention_dropout"),
        ({"pretraining_tp": 2}, "pretraining_tp"),
        ({"rope_interleaved": True}, "rope_interleaved"),
        ({"head_dim": 32}, "head_dim=32"),
        ({"rope_parameters": {"rope_type": "linear", "rope_theta": 500.0, "factor": 2.0}}, "rope_type='linear'"),
        ({"sliding_windows": 8}, "sliding_windows=8"),
    ],
)
def test_refuses_what_it_would_not_compute(tmp_path, change, named):
    llama().save_pretrained(tmp_path)
    file = tmp_path / "config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | change))
    with pytest.raises(Exception, match=named) as caught:
        PythiaModel.from_pretrained(tmp_path)
    assert "\n" not in str(caught.value.__cause__ or caught.value)


def test_a_published_config_with_its_asides_is_read(tmp_path):
    theirs = llama()
    theirs.save_pretrained(tmp_path)
    file = tmp_path / "config.json"
    written = json.loads(file.read_text())
    del written["rope_parameters"]
    asides = {"rope_theta": 500.0, "rope_scaling": None, "rope_interleaved": False, "is_llama_config": True}
    file.write_text(json.dumps(written | asides | {"transformers.js_config": {"dtype": "q4"}}))
    expected = LlamaForCausalLM.from_pretrained(tmp_path, dtype=torch.float64).eval()
    assert torch.allclose(read(tmp_path)(IDS).logits, expected(IDS).logits, atol=1e-9, rtol=0)


def test_settings_of_the_other_backbone_give_one_model():
    """A preset with the other block is the same model as that block's baseline with the same shape."""
    torch.manual_seed(0)
    one = create("llama", "tiny", tie_word_embeddings=False, num_key_value_heads=1)
    torch.manual_seed(0)
    other = create("mqa", "tiny", backbone="llama", intermediate_size=192)
    assert one.config.to_dict() == other.config.to_dict()
    assert torch.equal(one.eval()(IDS).logits, other.eval()(IDS).logits)
