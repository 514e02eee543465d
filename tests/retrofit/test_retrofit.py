"""A retrofit is exact where nothing is left out, and keeps the bytes it says."""

import copy

import numpy as np
import pandas as pd
import pytest
import torch
from transformers import (
    AutoModelForCausalLM,
    GPTNeoXConfig,
    GPTNeoXForCausalLM,
    LlamaConfig,
    LlamaForCausalLM,
)

from newllm.evaluation.cache import measure
from newllm.evaluation.causality import certify
from newllm.evaluation.probing import logits_in_pieces
from newllm.models import create
from newllm.retrofit import retrofit
from newllm.retrofit.calibration import calibrate
from newllm.retrofit.grouping import align, average, read_all
from newllm.retrofit.heads import read_heads, write_heads
from tests.retrofit.parents import IDS, PARENTS, TEXT, logits, trained


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
    everything = retrofit(parent, TEXT, kv_dim=32, rotary_pairs=8, controls=False)
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


def test_a_parent_in_bfloat16_becomes_a_model_in_bfloat16():
    torch.manual_seed(0)
    parent = create("pythia", "tiny", vocab_size=320).bfloat16()
    smaller = retrofit(parent, torch.randint(0, 320, (12, 16)), "mla", keep=0.5, controls=False)
    assert smaller.dtype == torch.bfloat16
    assert list(smaller.report["kept"].round(3)) == [1.0, 0.625, 0.5]
