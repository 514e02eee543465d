"""Which layers copy is asked of trained models that copy: once, and taken over where their weights are gone."""

import shutil

import pandas as pd
import pytest

from newllm.config.notebooks import Recall
from newllm.evaluation.copying_layers import copying_by_layer
from newllm.experiments import copying_study
from newllm.experiments.copying_study import find_copying_layers
from newllm.runs.saved_model import load_model
from tests.comparison_setup import settings


@pytest.fixture
def asked(text_folder, tmp_path, monkeypatch):
    monkeypatch.setenv("NEWLLM_OUTPUTS", str(tmp_path / "outputs"))
    monkeypatch.setenv("NEWLLM_CACHE", str(tmp_path / "cache"))
    # These texts have few tokens.
    monkeypatch.setattr(copying_study, "SETTINGS", {"distance": 16, "passages": 4})
    return Recall(**settings(text_folder).model_dump())


@pytest.fixture
def records(finished_comparison):
    """Of a model that copies, as is said here, and of one that does not."""
    every = finished_comparison[0].reset_index()
    chosen = every[every["arm"].isin(["pythia", "narrow"])]
    return chosen.assign(repeated_passage_gain=[0.6 if arm == "pythia" else 0.4 for arm in chosen["arm"]])


def test_models_that_copy_are_asked_once_and_taken_over(
    records, finished_comparison, text_data, asked, tmp_path, monkeypatch
):
    table = find_copying_layers(records, asked, tmp_path / "11" / "run")
    model = load_model(finished_comparison[1] / "pythia-seed1")
    alone = copying_by_layer(model, text_data.test.token_ids, 16, passages=4)
    assert set(table["arm"]) == {"pythia"} and set(table["seed"]) == {1} and set(table["passes"]) == {2}
    pd.testing.assert_frame_equal(table[list(alone)], alone)
    # A copy that was taken over without its weights hides nothing.
    bare = shutil.ignore_patterns("model")
    shutil.copytree(records["folder"].iloc[0].parent, tmp_path / "outputs" / "bare", ignore=bare)
    pd.testing.assert_frame_equal(find_copying_layers(records, asked, tmp_path / "12" / "run"), table)
    monkeypatch.setattr(copying_study, "load_model", None)
    again = find_copying_layers(records, asked, tmp_path / "11" / "run")
    pd.testing.assert_frame_equal(again, table)


def test_weights_of_an_equal_trial_are_found_and_those_that_are_nowhere_are_asked_for(
    records, asked, tmp_path, caplog, monkeypatch
):
    caplog.set_level("INFO", "newllm")
    monkeypatch.setattr(copying_study, "why_without_weights", lambda folder: f"{folder.name}: train it")
    bare = []
    for folder in records["folder"]:
        place = tmp_path / "published" / folder.name
        shutil.copytree(folder, place, ignore=shutil.ignore_patterns("model"))
        bare.append(place)
    published = records.assign(folder=bare)
    assert find_copying_layers(published, asked, tmp_path / "11" / "run").empty
    assert "pythia-seed1: train it" in caplog.text
    caplog.clear()
    assert find_copying_layers(published, asked.model_copy(update={"rerun": True}), tmp_path / "11" / "run").empty
    assert caplog.messages == ["pythia-seed1: train it"]
    shutil.copytree(records["folder"].iloc[0].parent, tmp_path / "outputs" / "here")
    found = find_copying_layers(published, asked, tmp_path / "11" / "run")
    pd.testing.assert_frame_equal(found, find_copying_layers(records, asked, tmp_path / "11" / "another"))
