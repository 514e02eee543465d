"""What cannot be converted is refused in one sentence, before anything is read."""

import re

import pytest
from transformers import (
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
    LlamaForSequenceClassification,
)

from newllm.models import create
from newllm.retrofit import retrofit
from tests.retrofit.parents import TEXT, trained


@pytest.mark.parametrize(
    ("settings", "reason"),
    [
        ({"method": "mla", "keep": 0.1}, "keep=0.1 leaves 12 values a token and layer, but rotary keys take 16"),
        ({"method": "mla", "kv_dim": 65}, "kv_dim=65 is more than 64"),
        ({"method": "mla", "kv_dim": 6, "keep": 0.5}, "leave one out"),
        ({"method": "mla", "rotary_pairs": 3}, "rotary_pairs=3 is more than the 2 pairs"),
        ({"method": "mla", "num_key_value_heads": 2}, "num_key_value_heads does nothing for mla"),
        ({"method": "mqa", "num_key_value_heads": 3}, "must divide the 4 key-value heads"),
        ({"method": "mqa", "healing_lr": 0.1}, "without healing_tokens"),
        ({"method": "mla", "factorisation": "split", "kv_dim": 1}, "a latent of one entry cannot be split"),
        ({"method": "mla", "rotary_pairs": 2, "rotary_choice": "high"}, "rotary_choice does nothing where all 2 pairs"),
        ({"method": "cla", "layers_sharing": 5}, "layers_sharing=5 must be at most"),
        ({"method": "vdproj"}, "mla"),
    ],
)
def test_impossible_settings_are_refused_before_anything_is_read(settings, reason, monkeypatch):
    monkeypatch.setattr("newllm.retrofit.stages.calibrate", None)
    with pytest.raises(ValueError, match=reason):
        retrofit(trained("neox"), TEXT, **settings)


@pytest.mark.parametrize(
    ("changes", "settings", "reason"),
    [
        ({"rotary_fraction": 1.0}, {"factorisation": "split"}, "split does nothing where all of a head stays rotated"),
        ({"position": "alibi"}, {"rotary_heads": "shared"}, "for a model that rotates nothing"),
        ({"num_key_value_heads": 1}, {"rotary_heads": "shared"}, "for a model that has one key head"),
    ],
)
def test_settings_without_effect_on_this_model_are_refused(changes, settings, reason, monkeypatch):
    monkeypatch.setattr("newllm.retrofit.stages.calibrate", None)
    with pytest.raises(ValueError, match=reason):
        retrofit(create("pythia", "tiny", **changes), TEXT, **settings)


def test_other_models_and_other_text_are_refused():
    with pytest.raises(ValueError, match="a MLAPythiaModel cannot be retrofitted"):
        retrofit(create("mla", "tiny"), TEXT)
    with pytest.raises(ValueError, match="a GPT2LMHeadModel cannot be retrofitted"):
        retrofit(GPT2LMHeadModel(GPT2Config(n_embd=16, n_layer=1, n_head=2)), TEXT)
    parent = trained("neox")
    with pytest.raises(ValueError, match="the text has the id 1023, but the model knows ids from 0 to 511"):
        retrofit(parent, TEXT + 1023 - int(TEXT.max()))
    with pytest.raises(ValueError, match="must be token ids"):
        retrofit(parent, TEXT.float())
    with pytest.raises(ValueError, match="less than one window"):
        retrofit(parent, TEXT[0], seq_length=64)


@pytest.mark.parametrize(
    ("more", "reason"),
    [
        ({"scored_ids": TEXT}, "calibration_ids and scored_ids are the same"),
        ({"bytes_per_token": [1] * 511}, "bytes_per_token must be 512 whole numbers"),
        ({"bytes_per_token": [-1] * 512}, "bytes_per_token must be 512 whole numbers"),
        ({"calibration_windows": 40}, "calibration_windows=40 is more than the 9 windows"),
        ({"healing_tokens": 10**6}, "healing_tokens=1000000 is more than the 112 tokens"),
        ({"healing_tokens": 64}, "healing_tokens=64 is one step of healing"),
        ({"batch_size": 10**5}, "batch_size=100000 is more than the 9 windows that are read"),
        (
            {"healing_tokens": 64, "batch_size": 2, "healing_evaluations": 3},
            "healing_evaluations=3 is more than the 2 steps of healing",
        ),
        ({"seed": -1}, "seed=-1 must be"),
        ({"seed": 0.5}, "seed=0.5 must be a whole number"),
        ({"keep": 2}, "keep is 2, but it must be less than or equal to 1"),
        ({"keeps": 0.5}, "keeps is not a parameter of a retrofit; did you mean keep?"),
    ],
)
def test_what_the_library_call_cannot_use_is_refused_before_anything_is_read(more, reason, monkeypatch):
    monkeypatch.setattr("newllm.retrofit.stages.calibrate", None)
    with pytest.raises(ValueError, match=re.escape(reason)) as refused:
        retrofit(trained("neox"), TEXT, **more)
    assert "validation error" not in str(refused.value)


def test_only_a_model_that_predicts_tokens_is_taken(monkeypatch):
    config = LlamaConfig(
        vocab_size=512, hidden_size=32, intermediate_size=64, num_hidden_layers=1, num_attention_heads=2
    )
    for other in (LlamaForCausalLM(config).model, LlamaForSequenceClassification(config), "a name"):
        with pytest.raises(ValueError, match=f"a {type(other).__name__} cannot be retrofitted"):
            retrofit(other, TEXT)
