"""Scores: what is recorded of trained and of pretrained models, and of which nothing is."""

import json
import math

import numpy as np
import pandas as pd
import pytest
import torch
from transformers import AutoTokenizer, GPTNeoXConfig, GPTNeoXForCausalLM

from newllm.analysis.summary import summarize_arms
from newllm.data import prepare_data
from newllm.evaluation.certificate import Certificate
from newllm.evaluation.perplexity import evaluate
from newllm.experiments import scoring
from newllm.experiments.checkpoints import Checkpoint, score_checkpoint
from newllm.experiments.comparison import ComparisonError, compare
from newllm.runs.saved_model import LoadingError, load_model
from tests.comparison_setup import ARMS, saved, settings, trial_of


def test_the_records_say_what_was_measured(finished_comparison, text_folder, text_data):
    records, folder = finished_comparison
    assert list(records.index) == list(ARMS)
    for arm, record in records.iterrows():
        report = evaluate(saved(folder, str(arm)), text_data.test)
        assert record["perplexity"] == pytest.approx(report.perplexity, rel=1e-6), "the best weights are the saved ones"
        assert record["bits_per_byte"] == pytest.approx(report.bits_per_byte, rel=1e-6)
        assert record["accuracy"] == report.accuracy
        assert record["kv_bytes"] == record["kv_formula_bytes"]
        assert record["decoded_tokens_per_second"] > 0
        assert math.isnan(record["convergence_rate"]) == ("oacd" not in str(arm))
        assert math.isnan(record["effective_rank"]) == ("dproj" not in str(arm))
        kept = pd.read_json(folder / f"{arm}-seed1" / "evaluation.json", typ="series")
        np.testing.assert_allclose(kept["window_losses"], report.window_losses, rtol=1e-6)
        assert kept["certificate"]["passed"]
    assert records["kv_bytes_per_token"]["dproj-oacd"] == records["kv_bytes_per_token"]["narrow"]
    assert records["kv_bytes_per_token"]["dproj-oacd"] < records["kv_bytes_per_token"]["pythia"]
    record = trial_of("narrow", settings(text_folder), folder, text_data.fingerprint).run().record()
    assert [continuation.prompt for continuation in record.continuations] == [
        "The people of the United States",
        "At the end of the year",
    ]
    assert all(continuation.text for continuation in record.continuations)
    assert len(AutoTokenizer.from_pretrained(folder / "narrow-seed1" / "model")) == len(text_data.tokenizer)


def test_nothing_is_recorded_without_a_certificate(text_folder, text_data, tmp_path, monkeypatch):
    failed = Certificate(passed=False, max_change=1.0, checks=[])
    monkeypatch.setattr(scoring, "certify", lambda model: failed)
    monkeypatch.setattr(Certificate, "failures", lambda self: ["later tokens: seen"])
    with pytest.raises(ComparisonError, match="pythia did not pass the causality certificate: later tokens: seen"):
        compare(settings(text_folder, arms=["pythia"], epochs=1), text_data, tmp_path)
    assert not list(tmp_path.rglob("record.json"))


def test_pretrained_weights_are_a_row_on_the_same_windows(finished_comparison, text_folder, text_data, tmp_path):
    row, folder = finished_comparison[0].loc["pythia"], finished_comparison[1]
    weights = str(folder / "pythia-seed1" / "model")
    other = str(folder / "narrow-seed1" / "model")
    given = settings(text_folder, arms=["pythia"], pretrained=[weights, other])
    results = compare(given, text_data, tmp_path).set_index("arm")
    names = ["pretrained:pythia-seed1/model", "pretrained:narrow-seed1/model"]
    assert list(results.index) == ["pythia", *names]
    assert results.perplexity[names[0]] == pytest.approx(row.perplexity, rel=1e-6)
    assert results.perplexity[names[1]] == pytest.approx(finished_comparison[0].loc["narrow"].perplexity, rel=1e-6)
    assert results.epochs[names].isna().all()
    # Beside the counts of the same text, as every table shows them.
    assert set(summarize_arms(results.reset_index(), "pythia")["arm"]) >= {"pythia", *names, "2-gram"}


def beside(where):
    """Weights that were trained elsewhere."""
    return Checkpoint(str(where), is_pretrained=True)


@pytest.fixture(scope="module")
def published(text_data):
    """A model as GPT-NeoX checkpoints have it, whose guesses are far from even."""

    def make(folder, *, tied=False, layers=2, dtype=torch.float32):
        torch.manual_seed(0)
        shape = {"hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 256}
        vocabulary = len(text_data.tokenizer)
        model = GPTNeoXForCausalLM(GPTNeoXConfig(vocab_size=vocabulary, tie_word_embeddings=tied, **shape)).eval()
        with torch.no_grad():
            model.get_output_embeddings().weight.mul_(20)
        model = model.to(dtype)
        model.save_pretrained(folder)
        text_data.tokenizer.save_pretrained(folder)
        config = folder / "config.json"
        config.write_text(json.dumps(json.loads(config.read_text()) | {"num_hidden_layers": layers}))
        return model.float()

    return make


def test_other_weights_in_the_same_place_are_scored_anew(published, text_folder, text_data, tmp_path):
    given = settings(text_folder, arms=["pythia"], pretrained=[str(tmp_path / "weights")])
    published(tmp_path / "weights")
    before = compare(given, text_data, tmp_path / "run").set_index("arm")
    published(tmp_path / "weights", dtype=torch.float16)
    after = compare(given, text_data, tmp_path / "run").set_index("arm")
    assert list(after.index) == list(before.index)
    assert list(after.folder == before.folder) == [True, False]


def test_half_precision_weights_are_scored_in_float32(published, text_folder, text_data, tmp_path, monkeypatch):
    model = published(tmp_path / "weights", dtype=torch.float16)
    dtypes = []
    certify = scoring.certify
    monkeypatch.setattr(scoring, "certify", lambda model: dtypes.append(model.dtype) or certify(model))
    record = score_checkpoint(
        Checkpoint(str(tmp_path / "weights"), is_pretrained=True), settings(text_folder), text_data, tmp_path / "run"
    )
    assert record.metrics["perplexity"] == pytest.approx(evaluate(model, text_data.test).perplexity, rel=1e-3)
    assert dtypes == [torch.float32]


def test_a_tied_head_that_the_file_lacks_is_never_random(published, text_folder, text_data, tmp_path):
    model = published(tmp_path / "weights", tied=True)
    try:
        loaded = load_model(tmp_path / "weights")
    except LoadingError as refusal:
        assert "are not those of pythia" in str(refusal)
    else:
        found = evaluate(loaded, text_data.test).perplexity
        assert found == pytest.approx(evaluate(model, text_data.test).perplexity, rel=1e-3)


@pytest.mark.parametrize("layers", [1, 4])
def test_a_file_of_other_layers_is_refused(published, text_folder, text_data, tmp_path, layers):
    published(tmp_path / "weights", layers=layers)
    with pytest.raises(ValueError, match="are not those of pythia"):
        score_checkpoint(
            Checkpoint(str(tmp_path / "weights"), is_pretrained=True),
            settings(text_folder),
            text_data,
            tmp_path / "run",
        )
    assert not (tmp_path / "run").exists()


def test_pretrained_weights_of_another_tokenizer_are_refused(finished_comparison, text_folder, tmp_path, monkeypatch):
    """Before anything is trained."""
    monkeypatch.setenv("NEWLLM_CACHE", str(tmp_path / "cache"))
    weights = str(finished_comparison[1] / "pythia-seed1" / "model")
    other = settings(text_folder, arms=["pythia"], tokenizer="bpe:310", pretrained=weights)
    data = prepare_data(other)
    with pytest.raises(ValueError, match="has another tokenizer than the text"):
        score_checkpoint(beside(weights), other, data, tmp_path / "run")
    with pytest.raises(ValueError, match="has another tokenizer than the text"):
        compare(other, data, tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_pretrained_weights_that_cannot_be_read_say_so(text_folder, text_data, tmp_path):
    with pytest.raises(ValueError, match="there is no folder"):
        score_checkpoint(
            Checkpoint(str(tmp_path / "nowhere"), is_pretrained=True), settings(text_folder), text_data, tmp_path
        )
