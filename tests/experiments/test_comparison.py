"""Comparisons: what is run, what is taken over, and what happens to trials that fail or are killed."""

import shutil
from dataclasses import replace
from typing import Any

import pandas as pd
import pytest
import torch

from newllm.data import TextData, prepare_data
from newllm.experiments import comparison as experiment
from newllm.experiments import recipes
from newllm.experiments.arms import ArmError
from newllm.experiments.comparison import ComparisonError, compare
from newllm.experiments.floor import FLOORS_FOLDER
from newllm.experiments.running import run_trial
from newllm.experiments.trial import Trial
from newllm.runs.saved_model import load_model
from tests.comparison_setup import saved, settings, trial_of


def test_equal_trials_of_another_notebook_are_taken_over(
    finished_comparison, text_folder, text_data, tmp_path, monkeypatch
):
    records, folder = finished_comparison
    monkeypatch.setenv("NEWLLM_OUTPUTS", str(folder.parent))
    monkeypatch.setattr(experiment, "run_trial", lambda *_: pytest.fail("a finished trial was run again"))
    elsewhere = compare(settings(text_folder, arms=("narrow",)), text_data, tmp_path)
    assert elsewhere["perplexity"].item() == records["perplexity"]["narrow"]
    assert {path.name for path in tmp_path.iterdir()} == {"narrow-seed1", FLOORS_FOLDER}
    torch.testing.assert_close(load_model(tmp_path / "narrow-seed1").state_dict(), saved(folder, "narrow").state_dict())


@pytest.mark.parametrize("change", [{"lr": 2e-3}, {"seeds": [2]}, {"rerun": True}])
def test_what_differs_is_not_taken_over(finished_comparison, text_folder, text_data, tmp_path, monkeypatch, change):
    monkeypatch.setenv("NEWLLM_OUTPUTS", str(finished_comparison[1].parent))
    monkeypatch.setattr(experiment, "run_trial", lambda *_: pytest.fail("run again"))
    with pytest.raises((pytest.fail.Exception, ComparisonError), match="run again"):
        compare(settings(text_folder, arms=("narrow",), **change), text_data, tmp_path)


def test_whoever_reads_the_records_can_read_the_weights(finished_comparison):
    files = [path for path in finished_comparison[1].rglob("*") if path.is_file()]
    assert any(path.suffix == ".safetensors" for path in files)
    assert {path.stat().st_mode for path in files} == {
        (finished_comparison[1] / "pythia-seed1/record.json").stat().st_mode
    }


def test_finished_trials_are_not_run_again(finished_comparison, text_folder, text_data, tmp_path, monkeypatch):
    records, finished = finished_comparison
    folder = shutil.copytree(finished, tmp_path / "copy")
    trained: list[str] = []
    real = experiment.run_trial

    def note(trial: Trial, text: TextData) -> Any:
        trained.append(trial.arm.name)
        return real(trial, text)

    monkeypatch.setattr(experiment, "run_trial", note)
    again = compare(settings(text_folder), text_data, folder).set_index("arm")
    assert trained == []
    pd.testing.assert_frame_equal(again.drop(columns="folder"), records.drop(columns="folder"))
    more = compare(settings(text_folder, arms=["mqa", "dproj-random"]), text_data, folder)
    assert trained == ["mqa"]
    assert list(more["arm"]) == ["mqa", "dproj-random"]


def test_a_failed_trial_stops_no_other_and_goes_on_where_it_stopped(
    finished_comparison, text_folder, text_data, tmp_path, monkeypatch
):
    records, _ = finished_comparison
    arms = ("dproj-oacd", "pythia")
    with monkeypatch.context() as patch:
        patch.setattr(recipes, "train", _fails_for("newllm-dproj", recipes.train))
        with pytest.raises(ComparisonError, match=r"1 of 2 trials failed.*dproj-oacd with seed 1: OSError: disk full"):
            compare(settings(text_folder, arms=arms), text_data, tmp_path)
    monkeypatch.setattr(recipes, "train_projections", _fails_for("newllm-dproj", None))
    resumed = compare(settings(text_folder, arms=arms), text_data, tmp_path).set_index("arm")
    for arm in arms:
        assert resumed.loc[arm, "perplexity"] == records.loc[arm, "perplexity"]
    assert resumed.loc["dproj-oacd", "convergence_rate"] == records.loc["dproj-oacd", "convergence_rate"]


def _fails_for(model_type: str, otherwise: Any) -> Any:
    def call(model: Any, *arguments: Any, **named: Any) -> Any:
        if model.config.model_type == model_type:
            raise OSError("disk full")
        return otherwise(model, *arguments, **named)

    return call


def test_a_killed_trial_finds_the_embedding_that_it_borrowed(text_folder, text_data, tmp_path, monkeypatch):
    """The lender is run once, and a trial has the same numbers whether it was run by then or not."""
    parameters = settings(text_folder, arms=["cascade"], epochs=1)
    staged = compare(parameters, text_data, tmp_path / "staged").iloc[0]
    trial = trial_of("cascade", parameters, tmp_path, text_data.fingerprint)
    with monkeypatch.context() as patch:
        patch.setattr(recipes, "train_on_stream", lambda *_, **named: pytest.fail("killed"))
        with pytest.raises(pytest.fail.Exception, match="killed"):
            run_trial(trial, text_data)
    assert (tmp_path / "pythia-seed1" / "record.json").exists()
    monkeypatch.setattr(recipes, "train", lambda *_, **named: pytest.fail("the lender was run again"))
    monkeypatch.setattr(recipes, "train_projections", lambda *_, **named: pytest.fail("projection training ran again"))
    resumed = run_trial(trial, text_data)
    assert resumed.metrics["perplexity"] == staged["perplexity"]
    assert resumed.metrics["convergence_rate"] == staged["convergence_rate"]


def test_a_record_counts_the_time_of_a_training_that_was_stopped(text_folder, text_data, tmp_path, monkeypatch):
    def went_on(*arguments: Any, **named: Any) -> Any:
        result = train(*arguments, **named)
        return replace(result, history=[row | {"seconds": 500.0} for row in result.history])

    train = recipes.train
    monkeypatch.setattr(recipes, "train", went_on)
    parameters = settings(text_folder, arms=["pythia"])
    record = run_trial(trial_of("pythia", parameters, tmp_path, text_data.fingerprint), text_data)
    assert record.duration_seconds > 500 * parameters.epochs


def test_a_warmup_that_takes_all_steps_is_refused_where_only_the_text_says_how_many(text_folder, text_data, tmp_path):
    given = settings(text_folder, arms=["pythia"], samples="all", epochs=1, batch_size=99, warmup=0.1)
    with pytest.raises(ValueError, match=r"arm 'pythia': warmup is 0.1, but that takes all of training \(1 step\)"):
        compare(given, text_data, tmp_path / "runs")
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize("arm", ["pythai", "dproj@proj_dim=0", "pythia@kv_dim=3"])
def test_an_impossible_arm_stops_before_anything_runs(text_folder, text_data, tmp_path, arm):
    with pytest.raises(ArmError):
        compare(settings(text_folder, arms=["pythia", arm]), text_data, tmp_path / "runs")
    assert not (tmp_path / "runs").exists()


def test_more_repeated_passages_than_there_is_room_for_are_refused_before_anything_is_trained(text_folder, tmp_path):
    few = {"seq_length": 128, "samples": 4, "projection_samples": 4, "val_samples": 1, "test_samples": 1}
    given = settings(text_folder, arms=["pythia"], repeat_distances=[64], repeated_passages=500, **few)
    with pytest.raises(ValueError, match="repeated_passages=500 is more than the scored text has room for"):
        compare(given, prepare_data(given), tmp_path / "run")
    assert not (tmp_path / "run").exists()
