"""Several processes do what one does."""

import pytest

from newllm.experiments.comparison import compare
from tests.comparison_setup import settings


def test_processes_change_nothing_but_the_time(finished_comparison, text_folder, text_data, tmp_path):
    records, _ = finished_comparison
    arms = ("dproj-oacd", "pythia")
    parallel = compare(settings(text_folder, arms=arms, processes=2), text_data, tmp_path).set_index("arm")
    for arm in arms:
        assert parallel.loc[arm, "perplexity"] == pytest.approx(records.loc[arm, "perplexity"], rel=1e-4)
