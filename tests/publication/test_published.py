"""What is published is read: trials that tell no methods apart are no evidence."""

import shutil

import pytest

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
