"""What trials cost: by text, the longest first, and every trial by itself."""

import pandas as pd
import pytest

from newllm.analysis.hours import hours_by_text, minutes_by_trial

LONG, SHORT = "sotu, all windows of 256", "sotu, 1500 windows of 256"


@pytest.fixture
def records():
    given = [{"source": "sotu", "samples": samples, "seq_length": 256} for samples in (1500, *["all"] * 4)]
    seconds = [60.0, 3600.0, 600.0, 1200.0, 1800.0]
    arms = ["pythia", "pythia", "pythia", "pythia", "mla"]
    return pd.DataFrame({"arm": arms, "seed": [0, 2, 1, 0, 0], "parameters": given, "duration_seconds": seconds})


def test_hours_are_added_up_by_text_the_longest_first(records):
    table = hours_by_text(records)
    assert list(table.text) == [LONG, SHORT]
    assert list(table.trials) == [4, 1]
    assert list(table.minutes) == [25, 1]
    assert table.hours.sum() == pytest.approx(records.duration_seconds.sum() / 3600)


def test_every_trial_is_listed_by_its_arm_text_and_seed(records):
    table = minutes_by_trial(records)
    assert list(table) == [LONG, SHORT]
    assert table.loc["pythia"].tolist() == [[20, 10, 60], [1]]
    assert table.loc["mla"].tolist() == [[30], []]
