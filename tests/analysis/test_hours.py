"""What trials cost: a row an arm, the longest first, and nothing lost on the way."""

import pandas as pd
import pytest

from newllm.analysis.hours import hours_by_arm


def test_hours_are_added_up_by_arm_the_longest_first():
    records = pd.DataFrame(
        {"arm": ["mla", "pythia", "pythia", "pythia"], "duration_seconds": [1800.0, 600.0, 1200.0, 3600.0]}
    )
    table = hours_by_arm(records)
    assert list(table.arm) == ["pythia", "mla"]
    assert list(table.trials) == [3, 1]
    assert list(table.minutes) == [20, 30]
    assert table.hours.sum() == pytest.approx(records.duration_seconds.sum() / 3600)
