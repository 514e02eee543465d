"""Names of rows: what tells trials of one arm apart, whichever record comes first."""

import pandas as pd
import pytest

from newllm.analysis.rows import name_rows
from newllm.analysis.summary import summarize_arms
from newllm.runs.records_table import load_records
from tests.publication.board_records import write_record


@pytest.fixture
def records(tmp_path):
    """A grid in which as many trials of the baseline were trained at each rate."""
    for rate, loss in ((0.01, 2.0), (0.02, 1.5), (0.03, 2.5)):
        write_record(tmp_path / f"{rate}", "pythia", 0, bits=loss, lr=rate)
    return load_records(tmp_path)


def names_by_rate(records):
    return dict(zip((given["lr"] for given in records["parameters"]), name_rows(records), strict=True))


def test_where_settings_tie_the_lowest_validation_loss_has_the_plain_name(records):
    found = names_by_rate(records)
    assert found == {0.01: "pythia (lr 0.01)", 0.02: "pythia", 0.03: "pythia (lr 0.03)"}
    turned = records.iloc[::-1].reset_index(drop=True)
    assert names_by_rate(turned) == found
    pd.testing.assert_frame_equal(
        *(summarize_arms(order.assign(arm=name_rows(order)), "pythia") for order in (records, turned))
    )


def test_before_that_what_most_trials_of_all_arms_have(records, tmp_path):
    write_record(tmp_path / "mqa", "mqa", 0, lr=0.03)
    assert names_by_rate(load_records(tmp_path).query("arm == 'pythia'").reset_index(drop=True))[0.02] == "pythia"
    wide = load_records(tmp_path)
    assert dict(
        zip(wide["arm"] + [f" {given['lr']}" for given in wide["parameters"]], name_rows(wide), strict=True)
    ) == {
        "mqa 0.03": "mqa",
        "pythia 0.01": "pythia (lr 0.01)",
        "pythia 0.02": "pythia (lr 0.02)",
        "pythia 0.03": "pythia",
    }


def test_a_trial_that_was_found_twice_weighs_no_more(records):
    twice = pd.concat([records, *[records[records["validation_loss"] == 2.5]] * 3], ignore_index=True)
    assert names_by_rate(twice)[0.02] == "pythia"
