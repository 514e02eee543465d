"""A retrofit is exact where nothing is left out, keeps the bytes it says, and refuses what it cannot convert."""

import copy
import re
from pkgutil import resolve_name as resolve

import numpy as np
import pandas as pd
import pytest
import torch
import torch.nn.functional as F
from transformers import (
    AutoModelForCausalLM,
    GPT2Config,
    GPT2LMHeadModel,
    GPTNeoXConfig,
    GPTNeoXForCausalLM,
    LlamaConfig,
    LlamaForCausalLM,
    LlamaForSequenceClassification,
)

from newllm.config.retrofit import RetrofitParameters
from newllm.evaluation.cache import measure
from newllm.evaluation.causality import certify
from newllm.evaluation.probing import logits_in_pieces
from newllm.models import create
from newllm.models.attention import Attention
from newllm.retrofit import retrofit
from newllm.retrofit.calibration import calibrate
from newllm.retrofit.grouping import align, average, read_all
from newllm.retrofit.heads import read_heads, write_heads
from newllm.retrofit.healing import following
from newllm.retrofit.token_ids import read_ids

IDS = torch.randint(1, 512, (2, 24), generator=torch.Generator().manual_seed(1))
TEXT = torch.randint(1, 512, (12, 16), generator=torch.Generator().manual_seed(0))
# Parents of every form: rotated in part or whole, not at all, grouped, with biases; and what the latent holds at most.
PARENTS = {
    "neox": ("pythia", {}, 64),
    "llama": ("llama", {}, 32),
    "qwen2": ("llama", {"attention_biases": "inputs"}, 32),
    "grouped neox": ("pythia", {"num_key_value_heads": 2}, 56),
    "alibi": ("unified", {"position": "alibi"}, 64),
    "half rotated llama": ("llama", {"position": {"type": "rope", "rotary_fraction": 0.5}}, 48),
}


def trained(kind):
    """A model in float64 whose every weight and bias matters."""
    name, settings, _ = PARENTS[kind]
    torch.manual_seed(0)
    model = create(name, "tiny", initializer_range=0.2, **settings).double().eval()
    with torch.no_grad():
        for weight in model.parameters():
            weight.add_(0.05 * torch.randn_like(weight))
    return model


def logits(model):
    with torch.no_grad():
        return model(IDS).logits


@pytest.mark.parametrize("kind", PARENTS)
@pytest.mark.parametrize("factorisation", ["weighted", "plain"])
def test_the_full_rank_reproduces_the_original(kind, factorisation):
    parent = trained(kind)
    before = copy.deepcopy(parent.state_dict())
    converted = retrofit(parent, TEXT, "mla", kv_dim=PARENTS[kind][2], factorisation=factorisation, controls=False)
    assert torch.allclose(logits(converted), logits(parent), atol=1e-9, rtol=0)
    assert converted.report["energy_lost"].iloc[-1] < 1e-9
    assert all(torch.equal(value, before[name]) for name, value in parent.state_dict().items())


@pytest.mark.parametrize("kind", ["neox", "qwen2"])
def test_what_comes_out_is_a_model_of_its_own(kind, tmp_path):
    converted = retrofit(trained(kind), TEXT, kv_dim=10, controls=False)
    certificate = certify(converted)
    assert certificate.passed, certificate.failures()
    assert measure(converted, 21).agrees
    absorbed = copy.deepcopy(converted)
    absorbed.attention_path = "absorbed"
    pieces = [9, 1, 1, 13]
    both = [logits_in_pieces(model, IDS, pieces)[0] for model in (converted, absorbed)]
    assert torch.allclose(*both, atol=1e-9, rtol=0)
    converted.save_pretrained(tmp_path)
    loaded = AutoModelForCausalLM.from_pretrained(tmp_path, dtype=torch.float64).eval()
    assert torch.equal(logits(loaded), logits(converted))
    generated = converted.generate(IDS[:, :5], max_new_tokens=5, do_sample=False, pad_token_id=0)
    assert generated.shape == (2, 10)


@pytest.mark.parametrize(
    "make",
    [
        lambda: GPTNeoXForCausalLM(
            GPTNeoXConfig(
                vocab_size=512, hidden_size=64, num_hidden_layers=2, num_attention_heads=4, intermediate_size=128
            )
        ),
        lambda: LlamaForCausalLM(
            LlamaConfig(
                vocab_size=512,
                hidden_size=64,
                num_hidden_layers=2,
                num_attention_heads=4,
                num_key_value_heads=2,
                intermediate_size=128,
                tie_word_embeddings=True,
            )
        ),
    ],
)
def test_models_of_transformers_are_taken(make):
    torch.manual_seed(0)
    parent = make().double().eval()
    converted = retrofit(parent, TEXT.flatten(), "mla", keep=1.0, controls=False, seq_length=16)
    assert torch.allclose(logits(converted), logits(parent), atol=1e-9, rtol=0)


def test_the_report_has_a_row_a_stage_and_the_controls():
    converted = retrofit(trained("neox"), TEXT, keep=0.5)
    report = converted.report
    assert list(report["stage"]) == [
        *("original", "position absorbable", "factorised, weighted", "replaced parts random", "2 averaged heads")
    ]
    assert list(report["control"]) == [False, False, False, True, True]
    # 128 values a token and layer before, 64 after: of these 16 are rotary keys.
    assert list(report["bytes_per_token"])[::2] == [1024, 512, 512]
    assert report["kept"].iloc[2] == 0.5
    # All of a tiny model's 64 inputs and its rotary keys.
    assert report["bytes_per_token"].iloc[1] == 2 * (64 + 16) * 4
    assert report["bits_per_byte"].isna().all()
    losses = report["energy_lost_by_layer"].iloc[2]
    assert len(losses) == 2 and min(losses) > 0
    assert report["perplexity"].notna().all()
    assert report["recall_others_loss"].notna().all() and report["position_gain"].notna().all()
    # Nothing is lost by what is exact; one group of documents gives no interval.
    assert pd.isna(report["difference"].iloc[0]) and abs(report["difference"].iloc[1]) < 1e-9
    lost = np.log(report["perplexity"] / report["perplexity"].iloc[0])
    assert np.allclose(report["difference"].iloc[1:].astype(float), lost.iloc[1:], atol=1e-9)
    assert report["difference_low"].isna().all()


def test_ranks_that_are_given_out_keep_their_sum():
    uniform, energy = (
        retrofit(trained("neox"), TEXT, kv_dim=20, ranks=kind, controls=False) for kind in ("uniform", "energy")
    )
    assert energy.cached_values(10) == uniform.cached_values(10)
    lost = [model.report["energy_lost"].iloc[-1] for model in (energy, uniform)]
    assert lost[0] <= lost[1] + 1e-12


@pytest.mark.parametrize("kind", ["neox", "llama"])
def test_a_shared_rotary_key_is_exact_where_heads_differ_by_turns_alone(kind):
    """Each head's pairs are those of the first, turned by an angle and stretched: RoPE commutes with that."""
    parent = trained(kind)
    rotary = parent.stack.layers[0].attention.position.rotary_dim
    half = rotary // 2
    for layer in parent.stack.layers:
        heads = read_heads(layer.attention)
        for number in range(1, len(heads.keys)):
            angle, size = torch.tensor(0.7 * number), 1 + number
            for first, second in ((heads.keys[0], heads.keys[number]), (heads.key_bias[0], heads.key_bias[number])):
                one, other = first[:half], first[half:rotary]
                second[:half] = size * (angle.cos() * one - angle.sin() * other)
                second[half:rotary] = size * (angle.sin() * one + angle.cos() * other)
        write_heads(layer.attention, heads)
    full = PARENTS[kind][2]
    converted = retrofit(parent, TEXT, rotary_heads="shared", kv_dim=full, controls=False)
    assert torch.allclose(logits(converted), logits(parent), atol=1e-9, rtol=0)
    assert converted.cached_values(1) == 2 * (full + rotary)


@pytest.mark.parametrize("choice", ["norm", "uniform", "high", "low"])
def test_fewer_pairs_can_stay_rotated(choice):
    parent = trained("llama")
    converted = retrofit(parent, TEXT, kv_dim=56, rotary_pairs=2, rotary_choice=choice, controls=False)
    assert converted.cached_values(1) == 2 * (56 + 2 * 4)
    assert measure(converted, 9).agrees
    difference = (logits(converted) - logits(parent)).abs().max()
    everything = retrofit(parent, TEXT, kv_dim=32, rotary_pairs=8, rotary_choice=choice, controls=False)
    assert torch.allclose(logits(everything), logits(parent), atol=1e-9, rtol=0)
    assert difference > 1e-6


@pytest.mark.parametrize("kind", PARENTS)
def test_turning_heads_to_each_other_changes_nothing_and_brings_them_nearer(kind):
    parent = trained(kind)
    expected = logits(parent)
    norms = {number: layer.input_layernorm for number, layer in enumerate(parent.stack.layers)}
    moments = calibrate(parent, norms, [TEXT])
    rotary = parent.stack.layers[0].attention.position.rotary_dim
    nearer = []
    for number, heads in enumerate(read_all(parent)):
        turned = align(heads, 1, rotary, moments[number])
        nearer.append([float((one.values - average(one, 1).values).norm()) for one in (turned, heads)])
        if parent.config.bias_of_attention() != "none":
            write_heads(parent.stack.layers[number].attention, turned)
    assert torch.allclose(logits(parent), expected, atol=1e-9, rtol=0)
    assert all(after < before for after, before in nearer)


@pytest.mark.parametrize("method", ["mqa", "cla"])
@pytest.mark.parametrize("kind", ["neox", "qwen2"])
def test_fewer_heads_and_fewer_layers(method, kind):
    if (method, kind) == ("cla", "qwen2"):
        kind = "neox"
    converted = retrofit(trained(kind), TEXT, method, controls=False)
    assert measure(converted, 9).agrees
    assert converted.report["kept"].iloc[-1] == {("mqa", "neox"): 0.25}.get((method, kind), 0.5)
    assert logits(converted).isfinite().all()


def test_equal_heads_and_equal_layers_are_averaged_without_loss():
    parent = trained("neox")
    with torch.no_grad():
        for layer in parent.stack.layers:
            heads = read_heads(layer.attention)
            for name in ("keys", "values", "key_bias", "value_bias"):
                getattr(heads, name)[1:] = getattr(heads, name)[:1]
            write_heads(layer.attention, heads)
    for averaging in ("naive", "aligned"):
        converted = retrofit(parent, TEXT, "mqa", averaging=averaging, controls=False)
        assert torch.allclose(logits(converted), logits(parent), atol=1e-9, rtol=0)


@pytest.mark.parametrize("loss", ["cross-entropy", "kl"])
def test_healing_brings_the_model_back_and_is_resumed(loss, tmp_path):
    parent = trained("neox").float()
    settings = {"kv_dim": 8, "healing_tokens": 112, "healing_loss": loss, "healing_lr": 0.01, "batch_size": 2}
    converted = retrofit(parent, TEXT, folder=tmp_path, **settings)
    stages = converted.report.set_index("stage")
    assert list(stages.index[-3:]) == ["replaced parts random", "not compressed", "1 averaged head"]
    assert set(stages["healing_tokens"]) == {0, 112}
    assert all(weight.requires_grad for weight in converted.parameters())
    unchanged = {
        name
        for name, value in converted.state_dict().items()
        if torch.equal(value, parent.state_dict().get(name, torch.ones(0)))
    }
    assert {name for name in parent.state_dict() if ".attention." not in name} <= unchanged
    again = retrofit(parent, TEXT, folder=tmp_path, **settings)
    assert again.report.drop(columns="energy_lost_by_layer").equals(
        converted.report.drop(columns="energy_lost_by_layer")
    )


class Killed(BaseException):
    """Stands for the end of a process."""


@pytest.mark.parametrize(
    ("part", "calls"),
    [
        ("newllm.retrofit.calibration.Moments.add", 3),  # the second batch
        ("newllm.training.checkpoints.SafeTrainer.training_step", 2),  # of the model
        ("newllm.training.checkpoints.SafeTrainer.training_step", 6),  # of a control, after the model was healed
    ],
)
def test_what_is_killed_ends_with_equal_numbers(part, calls, tmp_path, monkeypatch):
    settings = {"kv_dim": 8, "healing_tokens": 64, "batch_size": 2, "healing_evaluations": 2, "healing_lr": 0.01}
    whole = retrofit(trained("neox").float(), TEXT, folder=tmp_path / "whole", **settings)
    module, name = part.rsplit(".", 1)
    with monkeypatch.context() as patch:
        original, done = resolve(part), []

        def dies(*arguments, **named):
            done.append(1)
            if len(done) == calls:
                raise Killed
            return original(*arguments, **named)

        patch.setattr(resolve(module), name, dies)
        with pytest.raises(Killed):
            retrofit(trained("neox").float(), TEXT, folder=tmp_path / "killed", **settings)
    again = retrofit(trained("neox").float(), TEXT, folder=tmp_path / "killed", **settings)
    assert all(torch.equal(value, again.state_dict()[name]) for name, value in whole.state_dict().items())
    pd.testing.assert_frame_equal(again.report, whole.report)


def test_following_the_teacher_is_its_divergence():
    teacher, model = trained("neox"), trained("neox")
    with torch.no_grad():
        for part in model.modules():
            if isinstance(part, Attention):
                part.dense.weight.mul_(1.5)
    expected = F.kl_div(
        logits(model)[:, :-1].log_softmax(-1),
        logits(teacher)[:, :-1].log_softmax(-1),
        log_target=True,
        reduction="none",
    ).sum(-1)
    model.train()
    with following(model, teacher):
        loss = model(IDS, labels=IDS).loss
        assert model.eval()(IDS, labels=IDS).loss > 1
    assert loss.item() == pytest.approx(expected.mean().item(), abs=1e-9)
    model.train()
    assert model(IDS, labels=IDS).loss.item() != pytest.approx(loss.item(), abs=1e-3)


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
        ({"method": "cla", "layers_sharing": 5}, "layers_sharing=5 must be at most"),
        ({"method": "vdproj"}, "mla"),
    ],
)
def test_impossible_settings_are_refused_before_anything_is_read(settings, reason, monkeypatch):
    monkeypatch.setattr("newllm.retrofit.stages.calibrate", None)
    with pytest.raises(ValueError, match=reason):
        retrofit(trained("neox"), TEXT, **settings)


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


@pytest.mark.parametrize("shape", [(9, 16), (150,)])
def test_ids_are_predicted_once_each_in_the_order_in_which_they_come(shape):
    parent = trained("neox")
    scored = torch.randint(1, 512, shape, generator=torch.Generator().manual_seed(1))
    report = retrofit(parent, TEXT, scored_ids=scored, keep=0.5, controls=False).report
    row = scored.ravel()
    windows = (len(row) - 1) // 16
    with torch.no_grad():
        rows = [row[None, 16 * number : 16 * number + 17] for number in range(windows)]
        losses = [parent(row, labels=row).loss for row in rows]
    assert report["perplexity"][0] == pytest.approx(torch.stack(losses).mean().exp().item(), rel=1e-9)


@pytest.mark.parametrize("count", [700, 3100])
def test_a_row_of_any_length_is_enough(count):
    ids = torch.randint(1, 512, (count,), generator=torch.Generator().manual_seed(count))
    report = retrofit(trained("neox").float(), ids, "mqa", controls=False).report
    assert report["perplexity"].notna().all()


def test_healing_is_judged_by_windows_that_are_neither_learned_nor_scored():
    parent = trained("neox")
    asked = RetrofitParameters(healing_tokens=64, batch_size=1)
    text = read_ids(parent, asked, TEXT, None, None)
    parts = [part.token_ids.tolist() for part in (text.train, text.validation, text.test)]
    # Each part ends with the id after it, which the next one begins with.
    assert parts[0] + parts[1][1:] + parts[2][1:] == TEXT.ravel()[: 11 * 16 + 1].tolist()
    assert [len(part) // 16 for part in parts] == [7, 2, 2]
    assert read_ids(parent, RetrofitParameters(), TEXT, None, None).validation.token_ids.tolist() == parts[2]


@pytest.mark.parametrize(
    ("more", "reason"),
    [
        ({"scored_ids": TEXT}, "calibration_ids and scored_ids are the same"),
        ({"bytes_per_token": [1] * 511}, "bytes_per_token must be 512 whole numbers"),
        ({"bytes_per_token": [-1] * 512}, "bytes_per_token must be 512 whole numbers"),
        ({"calibration_windows": 40}, "calibration_windows=40 is more than the 9 windows"),
        ({"healing_tokens": 10**6}, "healing_tokens=1000000 is more than the 112 tokens"),
        ({"healing_tokens": 64}, "healing_tokens=64 is one step of healing"),
        ({"seed": -1}, "seed=-1 must be"),
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


def test_a_parent_in_bfloat16_becomes_a_model_in_bfloat16():
    torch.manual_seed(0)
    parent = create("pythia", "tiny", vocab_size=320).bfloat16()
    smaller = retrofit(parent, torch.randint(0, 320, (12, 16)), "mla", keep=0.5, controls=False)
    assert smaller.dtype == torch.bfloat16
    assert list(smaller.report["kept"].round(3)) == [1.0, 0.625, 0.5]
