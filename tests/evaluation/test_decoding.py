"""Decode timing runs the real thing: the cache is filled, steps follow one another, rows say what they measured."""

import pandas as pd
import pytest
import torch

from newllm.evaluation import decoding
from newllm.evaluation.decoding import COPIES, GROWS, STATIC, DecodingSession, compare_decoding, crossovers
from newllm.models import create
from newllm.models.growing_layer import BLOCK_TOKENS
from newllm.models.stock import deepseek_like, gpt_neox_like


@pytest.fixture
def models():
    torch.manual_seed(0)
    return {
        "pythia": create("pythia", "tiny"),
        "dproj": create("dproj", "tiny"),
        "deepseek": deepseek_like("tiny"),
        "neox": gpt_neox_like("tiny"),
    }


def test_rows_are_contexts_times_models_with_the_cache_of_that_length(models):
    table = compare_decoding(models, [30, 12], steps=2)
    static = ["deepseek, static cache", "neox, static cache"]
    assert list(table["context"]) == [12] * 6 + [30] * 6
    assert list(table["model"]) == [*models, *static] * 2
    assert list(table["cache"][:6]) == [GROWS, GROWS, COPIES, COPIES, STATIC, STATIC]
    assert list(table["fill_seconds"].isna()) == [name in static for name in table["model"]]
    assert (table["tokens_per_second"] * table["seconds_per_token"] - 1).abs().max() < 1e-9
    held = table.pivot(index="model", columns="context", values="cache_bytes")
    assert list(held.loc["pythia"]) == [12 * 1024, 30 * 1024]
    # Keys and values at 5/8 of the width, and the state of 40 values.
    assert list(held.loc["dproj"]) == [12 * 640 + 160, 30 * 640 + 160]
    # Latents of 16 and rotary keys of 16, in two layers.
    assert list(held.loc["deepseek"]) == [12 * 256, 30 * 256]
    assert list(held.loc["neox"]) == list(held.loc["pythia"]) == list(held.loc["neox, static cache"])
    spare = (table["reserved_bytes"] - table["cache_bytes"]).groupby(table["model"]).max()
    assert spare[["deepseek", "neox"]].eq(0).all()
    # Room for two timed steps and the one in which bytes are counted; in a cache of ours for what is left of a block.
    assert spare["neox, static cache"] == 3 * 1024
    assert spare["pythia"] == (BLOCK_TOKENS - 12) * 1024
    assert table["times_reading"].gt(0).all()
    assert table["threads"].eq(torch.get_num_threads()).all()
    assert table["commit"].nunique() == table["load"].nunique() == 1


def test_a_step_reads_its_cache_once_where_nothing_is_copied():
    torch.manual_seed(0)
    models = {"pythia": create("pythia", "tiny"), "neox": gpt_neox_like("tiny")}
    table = compare_decoding(models, [100, 400], steps=1).pivot(index="model", columns="context", values="read_bytes")
    a_token = (table[400] - table[100]) / 300
    # Keys and values of two layers, 64 float32 values each; masks and positions beside them count little.
    assert 1024 <= a_token["pythia"] < 1.05 * 1024
    assert 1024 <= a_token["neox, static cache"] < 1.05 * 1024
    # What is copied is read to copy it, and again.
    assert 2 * 1024 <= a_token["neox"] < 2.1 * 1024


@torch.no_grad()
def test_a_static_cache_goes_on_as_the_growing_one(models):
    session = DecodingSession(models["neox"], 20)
    session.fill(20)
    static = session.with_static_cache(room=6)
    tokens = []
    for one in (session, static):
        for _ in range(6):
            one.decode()
            tokens.append(int(one.next_token))
    assert tokens[:6] == tokens[6:]
    with pytest.raises(ValueError, match="keeps more than entries by token"):
        stateful = DecodingSession(models["dproj"], 5)
        stateful.fill(5)
        stateful.with_static_cache(room=6)


def test_a_step_that_expands_latents_needs_their_keys_and_values():
    torch.manual_seed(0)
    paths = {}
    for path in ("absorbed", "expanded"):
        paths[path] = create("mla", "tiny")
        paths[path].attention_path = path
    table = compare_decoding(paths, [100, 400], steps=1).pivot(index="context", columns="model", values="step_bytes")
    grown = (table.loc[400] - table.loc[100]) / 300
    # Bytes a token: keys and values of one layer, 64 values each, beside which the latents of 16 count little.
    assert 2 * 64 * 4 <= grown["expanded"] < 1.1 * 2 * 64 * 4
    # Nothing is copied when a token is added; positions and their bias stand beside the latents.
    assert 0 < grown["absorbed"] < 2 * 16 * 4


@pytest.mark.parametrize(
    ("ours", "expected"),
    [
        ([5, 5, 5, 5], None),
        ([1, 1, 1, 1], 1),
        ([5, 5, 1, 1], 4),
        ([1, 5, 1, 1], 4),
        ([1, 1, 1, 5], None),
        ([2, 2, 2, 1], 8),
    ],
)
def test_a_crossover_holds_from_there_on(ours, expected):
    rows = [
        {"context": 2**place, "model": name, "seconds_per_token": seconds}
        for name, column in (("ours", ours), ("theirs", [2, 2, 2, 2]))
        for place, seconds in enumerate(column)
    ]
    table = crossovers(pd.DataFrame(rows).sample(frac=1, random_state=0), "ours")
    assert list(table["against"]) == ["theirs"]
    found = table["faster_from"][0]
    assert pd.isna(found) if expected is None else found == expected
    assert table["times_as_fast"][0] == 2 / ours[-1]


def test_crossovers_are_those_of_a_model_that_was_timed():
    timings = pd.DataFrame({"context": [1, 1], "model": ["ours", "theirs"], "seconds_per_token": [1.0, 1.0]})
    assert crossovers(timings, "ours")["faster_from"].isna().all(), "equal is not faster"
    with pytest.raises(ValueError, match="'others' was not timed: choose from ours, theirs"):
        crossovers(timings, "others")


def test_decoding_is_greedy_generation(models, monkeypatch):
    monkeypatch.setattr(decoding, "PREFILL_TOKENS", 7)
    model = models["pythia"]
    session = DecodingSession(model, 20)
    session.fill(20)
    decoded = [int(session.next_token)]
    for _ in range(9):
        assert session.decode() > 0
        decoded.append(int(session.next_token))
    expected = model.generate(session.prompt, max_new_tokens=10, do_sample=False, eos_token_id=None, pad_token_id=0)
    assert decoded == expected[0, 20:].tolist()
    assert session.cache.get_seq_length() == 29


def test_repeated_entries_have_the_shape_of_computed_ones_and_are_the_first_ones(models):
    model = models["pythia"]
    computed, repeated = DecodingSession(model, 50), DecodingSession(model, 50)
    computed.fill(50)
    repeated.fill(50, computed=20)
    for one, other in zip(computed.cache.layers, repeated.cache.layers, strict=True):
        assert one.keys.shape == other.keys.shape
        assert torch.equal(other.values[:, :, 20:40], other.values[:, :, :20])
        assert torch.equal(other.values[:, :, 40:], other.values[:, :, :10])
        torch.testing.assert_close(one.keys[:, :, :20], other.keys[:, :, :20])
    repeated.decode()
    assert repeated.cache.get_seq_length() == 51


def test_a_state_cannot_be_repeated(models):
    with pytest.raises(ValueError, match="leave out computed"):
        DecodingSession(models["dproj"], 50).fill(50, computed=20)


@pytest.mark.parametrize(
    ("contexts", "steps", "reason"),
    [([], 2, "1 or more"), ([0], 2, "1 or more"), ([8], 0, "1 or more"), ([8, 10], 2, "more than 2 steps apart")],
)
def test_impossible_requests_are_refused(models, contexts, steps, reason):
    with pytest.raises(ValueError, match=reason):
        compare_decoding(models, contexts, steps=steps)
