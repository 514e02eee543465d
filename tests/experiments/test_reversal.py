"""Facts taught to several models: what is compared is what was trained, and the summary is what the parts say."""

from typing import Any

import numpy as np
import pytest

from newllm.config.notebooks import ReversalCurse
from newllm.data import prepare_data
from newllm.data.facts import FACTS
from newllm.evaluation.reversal import evaluate_reversal_curse
from newllm.experiments.reversal import compare_reversal, summarize_reversal
from newllm.runs.saved_model import load_model


def parameters(facts_file, **changes: Any) -> ReversalCurse:
    values: dict[str, Any] = {
        "profile": "test",
        "tokenizer": "bpe:320",
        "size": "tiny",
        "samples": 8,
        "seq_length": 16,
        "val_samples": 4,
        "test_samples": 4,
        "projection_samples": 4,
        "epochs": 4,
        "patience": 4,
        "lr": 1e-2,
        "arms": ["pythia", "narrow"],
        "seeds": [0, 1],
        "device": "cpu",
        "facts_file": facts_file,
    }
    return ReversalCurse(**values | changes)


@pytest.fixture(scope="module")
def facts_file(tmp_path_factory):
    path = tmp_path_factory.mktemp("facts") / "facts.csv"
    rows = [f"{fact.category},{fact.subject},{fact.relation},{fact.object}" for fact in FACTS[:4]]
    path.write_text("\n".join(["category,subject,relation,object", *rows]))
    return path


@pytest.fixture(scope="module")
def compared(facts_file, tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("NEWLLM_OUTPUTS", str(tmp_path_factory.mktemp("outputs")))
        yield compare_reversal(parameters(facts_file), tmp_path_factory.mktemp("run"))


def test_each_model_is_trained_with_the_facts_and_without(compared, facts_file):
    assert sorted(compared.records.groupby(["arm", "taught"]).size().to_dict().items()) == [
        (("narrow", False), 2),
        (("narrow", True), 2),
        (("pythia", False), 2),
        (("pythia", True), 2),
    ]
    folders = compared.records.folder.map(lambda folder: folder.parent.name)
    assert dict(zip(folders, compared.records.taught, strict=True)) == {"text": False, "text_and_facts": True}
    assert len(compared.facts) == 8 * 4


def test_teaching_makes_the_taught_sentences_likelier(compared):
    """At this learning rate a tiny model learns ten copies of four sentences; what it does backward is the question."""
    forward = compared.models[compared.models.category == "all"].groupby("taught")["forward_perplexity"].mean()
    assert forward[True] < 0.5 * forward[False]


def test_the_answers_are_those_of_the_saved_models(compared, facts_file):
    row = compared.records.iloc[-1]
    tokenizer = prepare_data(parameters(facts_file)).tokenizer
    report = evaluate_reversal_curse(load_model(row.folder), tokenizer, FACTS[:4])
    chosen = (compared.models.arm == row.arm) & (compared.models.seed == row.seed) & compared.models.taught
    stored = compared.models[chosen & (compared.models.category == "all")].iloc[0]
    assert stored.backward_perplexity == pytest.approx(report.backward_perplexity, rel=1e-5)
    assert stored.forward_margin == pytest.approx(report.margins["forward"].mean, rel=1e-4)


def test_a_gain_is_the_difference_of_the_margins_with_and_without_teaching(compared):
    summary = summarize_reversal(compared).set_index(["arm", "taught"])
    for arm in ("pythia", "narrow"):
        for way in ("forward", "backward"):
            difference = summary.loc[(arm, True), f"{way}_margin"] - summary.loc[(arm, False), f"{way}_margin"]
            gain = summary.loc[(arm, True)]
            assert gain[f"{way}_gain"] == pytest.approx(difference)
            assert gain[f"{way}_gain_low"] <= gain[f"{way}_gain"] <= gain[f"{way}_gain_high"]
    assert summary.loc[(slice(None), False), "forward_gain"].isna().all()
    assert (summary["seeds"] == 2).all()
    np.testing.assert_allclose(
        summary["text_perplexity"].sort_index(),
        compared.records.groupby(["arm", "taught"])["perplexity"].mean().sort_index(),
    )


def test_facts_that_cannot_be_asked_are_refused_before_anything_is_trained(tmp_path):
    alone = tmp_path / "facts.csv"
    alone.write_text("category,subject,relation,object\ncapital,France,capital of,Paris\n")
    with pytest.raises(ValueError, match="needs a second fact with other names"):
        compare_reversal(parameters(alone), tmp_path / "run")
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    "changes", [{"pretrained": ["EleutherAI/pythia-70m"]}, {"arms": ["pythia", "checkpoint:EleutherAI/pythia-70m"]}]
)
def test_a_model_that_is_trained_already_is_not_taught(facts_file, changes):
    with pytest.raises(ValueError, match="is trained already, but here every model is taught the facts"):
        parameters(facts_file, **changes)
