"""What is finished is not trained again, and what has to be trained is trained once."""

from typing import Any

import pytest

from newllm.data import TextData
from newllm.experiments import recipes
from newllm.experiments.arms import Arm
from newllm.experiments.comparison import compare, run_trials
from newllm.experiments.reuse import finished_elsewhere, to_train
from newllm.experiments.trial import Trial
from newllm.files import SAVED_MODEL
from newllm.publication.planning import KEPT_FILES
from newllm.runs.publishing import plan_publication
from newllm.training.main import train
from tests.comparison_setup import settings


@pytest.fixture
def trained(monkeypatch) -> list[str]:
    """Names of the folders of what is trained from now on."""
    names: list[str] = []

    def note(model: Any, data: TextData, parameters: Any, folder: Any, **named: Any) -> Any:
        names.append(folder.parent.name)
        return train(model, data, parameters, folder, **named)

    monkeypatch.setattr(recipes, "train", note)
    return names


@pytest.fixture
def outputs(tmp_path, monkeypatch):
    """An empty folder of outputs, so that nothing is taken over but what a test puts there."""
    monkeypatch.setenv("NEWLLM_OUTPUTS", str(tmp_path / "outputs"))
    return tmp_path / "outputs"


def test_a_lender_is_trained_once_for_trials_in_several_folders(text_folder, text_data, outputs, trained):
    """Those of a sweep over a rate that does not reach the lender, beside the lender as an arm of a third folder."""
    trials = [
        Trial(Arm.parse(arm), 1, settings(text_folder, epochs=1, stream_lr=rate), outputs / name, text_data.fingerprint)
        for name, arm, rate in (("low", "cascade", 1e-3), ("high", "cascade", 2e-3), ("plain", "pythia", 1e-3))
    ]
    waiting = to_train(trials)
    assert [trial.arm.name for trial in waiting] == ["pythia", "cascade-oacd", "cascade-oacd"]
    assert run_trials(trials, text_data, outputs) == {}
    assert trained == ["pythia-seed1"]
    assert all(trial.run().is_finished for trial in trials)
    assert not to_train(trials)


def test_what_was_finished_without_weights_does_not_lend_its_embedding(text_folder, text_data, outputs, trained):
    """Neither from elsewhere, as most published trials are, nor from here, where one was taken over."""
    parameters = settings(text_folder, arms=["pythia"], epochs=1)
    home = outputs.with_name("trained")
    compare(parameters, text_data, home)
    plan_publication(home / "pythia-seed1", outputs / "published" / "pythia-seed1", KEPT_FILES).write()
    assert len(compare(parameters, text_data, outputs / "here")) == 1
    assert trained == ["pythia-seed1"]
    assert not (outputs / "here" / "pythia-seed1" / SAVED_MODEL).exists()

    borrowing = settings(text_folder, arms=["pythia", "cascade"], epochs=1)
    there = Trial(Arm.parse("cascade"), 1, borrowing, outputs / "there", text_data.fingerprint)
    assert finished_elsewhere([there]) == {}
    assert len(compare(borrowing, text_data, outputs / "here")) == 2
    assert trained == ["pythia-seed1"] * 2
    # Now there is one with weights.
    assert run_trials([there], text_data, outputs / "there") == {}
    assert trained == ["pythia-seed1"] * 2
