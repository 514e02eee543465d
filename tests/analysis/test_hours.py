"""What trials cost: a row an arm, the longest first, and nothing lost on the way."""

import pandas as pd
import pytest

from newllm.analysis.hours import hours_by_arm


def test_hours_are_added_up_by_arm_the_longest_first():
    given = [
        {"source": "sotu", "samples": samples, "seq_length": 256} for samples in ("all", "all", "all", "all", 1500)
    ]
    seconds = [1800.0, 600.0, 1200.0, 3600.0, 60.0]
    arms = ["mla", "pythia", "pythia", "pythia", "pythia"]
    records = pd.DataFrame({"arm": arms, "parameters": given, "duration_seconds": seconds})
    table = hours_by_arm(records)
    assert list(table.arm) == ["pythia", "mla", "pythia"]
    assert list(table.text) == 2 * ["sotu, all windows of 256"] + ["sotu, 1500 windows of 256"]
    assert list(table.trials) == [3, 1, 1]
    assert list(table.minutes) == [20, 30, 1]
    assert table.hours.sum() == pytest.approx(records.duration_seconds.sum() / 3600)
