"""Benchmarks beside a comparison: asked once, known by file and weights, refused before anything is trained."""

import json
import logging
import shutil

import pytest
from pydantic import ValidationError

from newllm.analysis.summary import summarize_arms
from newllm.analysis.tables import arms_table
from newllm.benchmarks.lambada import evaluate_lambada
from newllm.benchmarks.wikitext import evaluate_wikitext
from newllm.config.errors import ParameterError
from newllm.data.hub import HubUnavailableError
from newllm.experiments import benchmark_study, comparison
from newllm.experiments.comparison import compare
from newllm.experiments.planning import check_before_work
from newllm.publication.planning import KEPT_FILES
from newllm.runs.publishing import plan_publication
from newllm.runs.saved_model import load_trained_model
from tests.comparison_setup import settings
from tests.evaluation.conftest import fake_hub, raw_wikitext

__all__ = ["fake_hub", "raw_wikitext"]

PASSAGES = ("The river crosses the old road", "My sister remembers a small town", "The teacher forgets the night train")


@pytest.fixture
def asked(tmp_path, raw_wikitext):
    """The two benchmarks, each of a file."""
    lambada, wikitext = tmp_path / "last_words.jsonl", tmp_path / "wiki.test.raw"
    lambada.write_text("".join(json.dumps({"text": passage}) + "\n" for passage in PASSAGES))
    wikitext.write_text(raw_wikitext[:1500])
    return [f"lambada:{lambada}", f"wikitext:{wikitext}"]


@pytest.fixture(autouse=True)
def outputs(finished_comparison, tmp_path, monkeypatch):
    """An outputs folder with the finished comparison in it, and room for others."""
    folder = tmp_path / "outputs"
    shutil.copytree(finished_comparison[1], folder / "earlier")
    monkeypatch.setenv("NEWLLM_OUTPUTS", str(folder))
    monkeypatch.setattr(comparison, "run_trial", lambda *_: pytest.fail("trained"))
    return folder


def test_models_are_asked_once_and_what_they_answer_stands_in_the_table(
    asked, outputs, finished_comparison, text_folder, text_data, tmp_path, monkeypatch
):
    shutil.copytree(finished_comparison[1] / "pythia-seed1" / "model", tmp_path / "elsewhere" / "model")
    arms = ["pythia", "dproj-oacd", f"checkpoint:{tmp_path / 'elsewhere'}"]
    given = settings(text_folder, arms=arms, benchmarks=asked)
    check_before_work(given)
    records = compare(given, text_data, outputs / "first").set_index("arm")
    assert list(records.index) == ["pythia", "dproj-oacd", "checkpoint:elsewhere"]
    for arm in ("pythia", "dproj-oacd"):
        found, trained = records.loc[arm], load_trained_model(outputs / "earlier" / f"{arm}-seed1")
        lambada, wikitext = (text.partition(":")[2] for text in asked)
        last_words = evaluate_lambada(trained.model, trained.tokenizer, lambada, window=16)
        articles = evaluate_wikitext(trained.model, trained.tokenizer, wikitext, window=16)
        assert found["lambada_accuracy"] == last_words.accuracy
        assert found["lambada_perplexity"] == pytest.approx(last_words.perplexity, rel=1e-12)
        assert found["wikitext_word_perplexity"] == pytest.approx(articles.word_perplexity, rel=1e-12)
        assert found["wikitext_bits_per_byte"] == pytest.approx(articles.bits_per_byte, rel=1e-12)
    columns = list(benchmark_study.BENCHMARK_COLUMNS)
    assert records.loc["checkpoint:elsewhere", columns].equals(records.loc["pythia", columns])
    table = arms_table(summarize_arms(records.reset_index(), "pythia")).set_index("arm")
    written = f"{records.loc['pythia', 'wikitext_word_perplexity']:,.0f}"
    assert table.loc["pythia", "WikiText-2 perplexity a word"] == written
    assert table.loc["2-gram", "LAMBADA perplexity"] == ""

    # The same questions from another place, in another run.
    monkeypatch.setattr(benchmark_study, "load_trained_model", lambda *_: pytest.fail("asked again"))
    moved = shutil.move(asked[0].partition(":")[2], tmp_path / "moved.jsonl")
    again = compare(given.model_copy(update={"benchmarks": (f"lambada:{moved}",)}), text_data, outputs / "second")
    assert again["lambada_perplexity"].tolist() == records["lambada_perplexity"].tolist()
    moved.write_text(json.dumps({"text": PASSAGES[0]}))
    with pytest.raises(pytest.fail.Exception, match="asked again"):
        compare(given.model_copy(update={"benchmarks": (f"lambada:{moved}",)}), text_data, outputs / "third")


def test_what_is_asked_decides_the_folder_of_the_run_and_no_trial(asked, text_folder):
    plain, given = settings(text_folder), settings(text_folder, benchmarks=asked)
    assert plain.fingerprint() != given.fingerprint()
    assert "benchmarks" not in plain.identity()
    reach = {"trains_projection": True, "reads_stream": True}
    assert plain.trial_identity("pythia", 1, **reach) == given.trial_identity("pythia", 1, **reach)


def test_models_without_weights_are_left_empty_and_named_with_the_command(
    asked, outputs, text_folder, text_data, caplog
):
    trained = outputs / "earlier" / "pythia-seed1"
    plan_publication(trained, outputs / "published" / "pythia-seed1", KEPT_FILES).write()
    shutil.rmtree(trained)
    with caplog.at_level(logging.INFO, "newllm"):
        records = compare(settings(text_folder, arms=["pythia"], benchmarks=asked), text_data, outputs / "run")
    assert records["lambada_accuracy"].isna().all()
    assert "benchmarks=[" in caplog.text and "--rerun` trains them" in caplog.text


@pytest.mark.parametrize(
    ("benchmarks", "said"),
    [
        (["lambda"], "did you mean 'lambada'"),
        (["hellaswag"], "newllm evaluate asks others"),
        (["wikitext:"], "is no benchmark"),
        (["lambada", "lambada:a.jsonl"], "no benchmark may be given twice"),
    ],
)
def test_what_is_no_benchmark_is_refused(text_folder, benchmarks, said):
    with pytest.raises(ValidationError, match=said):
        settings(text_folder, benchmarks=benchmarks)


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("lambada", None, "there is no file"),
        ("lambada", "{}\n", "expected a JSON object"),
        ("wikitext", None, "there is no file"),
        ("wikitext", "no headings\n", "no article heading"),
    ],
)
def test_files_that_are_none_are_refused_before_work(text_folder, tmp_path, name, content, said):
    file = tmp_path / "given.jsonl"
    if content is not None:
        file.write_text(content)
    with pytest.raises(ParameterError, match=said):
        check_before_work(settings(text_folder, benchmarks=[f"{name}:{file}"]))


@pytest.mark.parametrize("name", ["lambada", "wikitext"])
def test_a_silent_hub_is_met_before_anything_is_trained(fake_hub, name, text_folder, text_data, tmp_path, monkeypatch):
    monkeypatch.setenv("NEWLLM_CACHE", str(tmp_path / "cache"))
    fake_hub.reachable = False
    given = settings(text_folder, arms=["pythia"], seeds=[7], benchmarks=[name])
    with pytest.raises(HubUnavailableError, match="a local"):
        compare(given, text_data, tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_the_hub_is_asked_where_no_file_is_given(
    fake_hub, outputs, text_folder, text_data, asked, tmp_path, monkeypatch
):
    monkeypatch.setenv("NEWLLM_CACHE", str(tmp_path / "cache"))
    fake_hub.rows = [{"text": passage} for passage in PASSAGES]
    of_hub, of_file = (
        compare(settings(text_folder, arms=["pythia"], benchmarks=[benchmark]), text_data, outputs / place)
        for place, benchmark in {"hub": "lambada", "file": asked[0]}.items()
    )
    assert of_hub["lambada_perplexity"].tolist() == of_file["lambada_perplexity"].tolist()
