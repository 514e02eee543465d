"""What is published is read: trials that tell no methods apart are no evidence, and what is missing is said."""

import shutil

import pandas as pd
import pytest

from newllm.config.errors import ParameterError
from newllm.publication import published
from newllm.runs.folder import SWEEPS_FOLDER


@pytest.mark.parametrize("sweep", published.TELL_NO_METHODS)
def test_trials_that_rates_were_chosen_by_are_no_evidence(finished_comparison, tmp_path, monkeypatch, sweep):
    _, finished = finished_comparison
    monkeypatch.setattr(published, "reference_folder", lambda: tmp_path)
    shutil.copytree(finished, tmp_path / SWEEPS_FOLDER / sweep / "test-1234abcd")
    assert published.published_trials().empty
    shutil.copytree(finished, tmp_path / SWEEPS_FOLDER / "mine" / "test-1234abcd")
    assert len(published.published_trials()) == len(published.published_sweep("mine"))


@pytest.mark.parametrize(
    ("read", "command"),
    [
        (lambda: published.published_table("03_causal_masks/tables/leak"), "newllm run 03_causal_masks"),
        (lambda: published.published_sweep("mine"), "newllm sweep mine"),
        (lambda: published.published_rates("mine"), "newllm sweep mine"),
        (published.published_stages, "newllm retrofit"),
    ],
)
def test_what_is_missing_names_the_command_that_makes_it(tmp_path, monkeypatch, read, command):
    monkeypatch.setattr(published, "reference_folder", lambda: tmp_path)
    with pytest.raises(published.UnpublishedError) as refused:
        read()
    assert str(refused.value) == f"not published yet: `{command}`"


def test_a_grid_of_rates_that_is_not_finished_is_not_published(finished_comparison, tmp_path, monkeypatch):
    monkeypatch.setattr(published, "reference_folder", lambda: tmp_path)
    shutil.copytree(finished_comparison[1], tmp_path / SWEEPS_FOLDER / "mine" / "test-1234abcd")
    records, best = published.published_rates("mine", "pythia")
    assert set(records["arm"]) == set(best["arm"]) == {"pythia"}

    def unfinished(records: pd.DataFrame) -> pd.DataFrame:
        raise ParameterError("finish the grid first.")

    monkeypatch.setattr(published, "best_learning_rates", unfinished)
    with pytest.raises(published.UnpublishedError, match=r"`newllm sweep mine` \(finish the grid first\)$"):
        published.published_rates("mine")
