"""Names asked for and contexts cut of trained models: once, and taken over where their weights are gone."""

import re

import pandas as pd
import pytest

from newllm.config.errors import ParameterError
from newllm.config.notebooks import Recall
from newllm.config.profiles import load_parameters
from newllm.data import prepare_data
from newllm.evaluation.truncation import score_truncated
from newllm.experiments import recall_study
from newllm.experiments.planning import check_before_work
from newllm.experiments.recall_study import cut_contexts, find_needles
from newllm.runs.saved_model import load_model
from tests.comparison_setup import settings


@pytest.fixture
def asked(text_folder, text_data, tmp_path, monkeypatch):
    """Parameters with names that the tokenizer of these texts has, the rarest of its words."""
    monkeypatch.setenv("NEWLLM_OUTPUTS", str(tmp_path))
    vocabulary = sorted(text_data.tokenizer.get_vocab().items(), key=lambda each: -each[1])
    names = [word[1:] for word, _ in vocabulary if re.fullmatch("Ġ[a-z]{3,}", word)][:8]
    own = {"needle_names": [*names, "Honorificabilitudinitatibus"], "needle_distances": [4, 10_000]}
    own |= {"needle_times": [1], "needle_windows": 6, "truncated_contexts": [8, 2], "truncated_windows": 3}
    return Recall(**settings(text_folder).model_dump() | own)


def records_of(finished_comparison, *arms):
    records = finished_comparison[0].reset_index()
    return records[records.arm.isin(arms)]


def test_contexts_are_cut_once_and_taken_over(finished_comparison, text_data, asked, tmp_path, monkeypatch):
    records = records_of(finished_comparison, "pythia", "dproj-oacd")
    table = cut_contexts(records, asked, text_data.test, tmp_path / "11" / "run")
    assert list(table["arm"]) == ["pythia"] * 3 + ["dproj-oacd"] * 3
    assert list(table["context"][:2]) == [2, 8]
    windows = text_data.test
    chosen = [0, (len(windows) - 1) // 2, len(windows) - 1]
    model = load_model(finished_comparison[1] / "pythia-seed1")
    alone = score_truncated(model, windows.rows()[chosen], windows.document_groups[chosen], [2, 8])
    assert list(table["loss"][:3]) == pytest.approx(list(alone["loss"]))
    monkeypatch.setattr(recall_study, "load_model", None)
    again = cut_contexts(records, asked, windows, tmp_path / "11" / "another")
    pd.testing.assert_frame_equal(again, table)


def test_names_are_asked_for_once_and_taken_over(finished_comparison, text_folder, asked, tmp_path, monkeypatch):
    monkeypatch.setenv("NEWLLM_CACHE", str(tmp_path / "cache"))
    # With room for the sentences, and few of these words: names are beginnings of words that hardly stand alone.
    windows = prepare_data(settings(text_folder, seq_length=192, samples=1, val_samples=1, test_samples="all"))
    beginnings = [word[1:] for word in windows.tokenizer.get_vocab() if re.fullmatch("Ġ[A-Za-z]+", word)]
    asked = asked.model_copy(update={"needle_names": tuple(sorted(beginnings)), "needle_distances": (4, 8, 10_000)})
    records = records_of(finished_comparison, "pythia")
    table = find_needles(records, asked, windows, tmp_path / "11" / "run")
    assert list(table["distance"]) == [4, 8], "no window has room for the longest"
    assert set(table["arm"]) == {"pythia"} and set(table["seed"]) == {1}
    assert (table["texts"] == 4 * min(6, len(windows.test))).all() and table["right"].between(0, 1).all()
    monkeypatch.setattr(recall_study, "load_model", None)
    again = find_needles(records, asked, windows, tmp_path / "11" / "another")
    pd.testing.assert_frame_equal(again, table)


def test_windows_without_room_for_the_sentences_are_asked_nothing(
    finished_comparison, text_data, asked, tmp_path, caplog
):
    table = find_needles(records_of(finished_comparison, "pythia"), asked, text_data, tmp_path / "11" / "run")
    assert table.empty and {"arm", "seed", "distance"} <= set(table)
    assert "tokens of this tokenizer, but a window has 16: give shorter needle_distances" in caplog.text


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"needle_distances": [16, 2000]}, "needle_distances holds 2000, whose texts have 2035 tokens or more"),
        ({"needle_times": [1, 50]}, "needle_times holds 50, .* but a window has 128"),
    ],
)
def test_what_no_window_has_room_for_is_refused_before_work(given, said):
    with pytest.raises(ParameterError, match=said):
        check_before_work(load_parameters("11_recall", "smoke", given))
    usual = {"needle_distances": [16, 64, 128, 192], "needle_times": [1, 4]}
    check_before_work(load_parameters("11_recall", "smoke", usual))


def test_contexts_as_long_as_a_window_have_no_row_of_their_own(finished_comparison, text_data, asked, tmp_path):
    usual = Recall(**asked.model_dump(exclude={"truncated_contexts"}))
    table = cut_contexts(records_of(finished_comparison, "pythia"), usual, text_data.test, tmp_path / "11" / "run")
    assert list(table["context"]) == [8, 16], "the last row is of whole windows of 16"


def test_without_names_of_one_token_nothing_is_asked(finished_comparison, text_data, asked, tmp_path, caplog):
    unknown = asked.model_copy(update={"needle_names": ("Honorificabilitudinitatibus", "Antidisestablishmentarian")})
    table = find_needles(records_of(finished_comparison, "pythia"), unknown, text_data, tmp_path / "11" / "run")
    assert table.empty and {"arm", "margin", "right"} <= set(table)
    assert "fewer than two of needle_names are a single token" in caplog.text
