"""What records say of recall, and that nothing is ranked by a measure by which the baseline itself gains nothing."""

import json

import pandas as pd
import pytest

from newllm.analysis.recall import (
    baseline_gains,
    by_parts_of_period,
    recall_by_arm,
    recall_part,
    rise_through_period,
)


@pytest.fixture
def records(tmp_path):
    """Two arms with two seeds; the baseline gains by repeated passages and not by late positions."""
    rows = []
    for arm, gain in (("pythia", 0.5), ("mla", 0.1)):
        for seed in (0, 1):
            folder = tmp_path / f"{arm}-{seed}"
            folder.mkdir()
            losses = (("hits", 1.0 - gain, 1.1 - gain), ("misses", 1.0, 1.1), ("others", 3.0, 3.1))
            report = {
                "tokens": [
                    {"kind": kind, "tokens": 5, "share": 1 / 3, "loss": loss, "loss_low": loss - 0.1, "loss_high": high}
                    for kind, loss, high in losses
                ],
                "passages": [{"distance": 64, "gain": gain + seed, "gain_low": gain, "gain_high": gain + 2}],
                "position_gain": {"gain": 0.0, "gain_low": -0.1, "gain_high": 0.1},
                "places": [],
            }
            (folder / "evaluation.json").write_text(json.dumps({"recall": report}))
            row = {"arm": arm, "seed": seed, "folder": folder}
            rows.append(row | {"recall_hits_loss": 1.0 - gain + seed, "repeated_passage_gain": gain})
    return pd.DataFrame(rows)


def test_the_baselines_own_gain_decides_what_can_be_told(records):
    gains = baseline_gains(records, "pythia").set_index("measure")
    assert gains.verdict["late positions"] == "cannot tell at this budget"
    passages = gains.loc["a passage said again after 64 tokens"]
    assert (passages.gain, passages.gain_low, passages.verdict) == (1.0, 0.5, "can tell")
    pairs = gains.loc["pairs seen before, beside the same with another end"]
    assert pairs.gain == pytest.approx(0.5)
    assert pairs.gain - pairs.gain_low == pytest.approx(0.1 * 2**0.5)


def test_without_the_baseline_nothing_is_said(records):
    assert baseline_gains(records[records.arm == "mla"], "pythia").empty


def test_arms_are_means_over_seeds_and_the_best_at_pairs_stands_first(records):
    table = recall_by_arm(records)
    assert list(table.arm) == ["pythia", "mla"]
    assert list(table["loss on pairs seen before (nats)"]) == pytest.approx([1.0, 1.4])
    assert "gain of late positions (nats)" not in table


def test_parts_name_their_trial(records):
    tokens = recall_part(records, "tokens")
    assert len(tokens) == 3 * len(records)
    assert set(tokens[["arm", "seed"]].itertuples(index=False, name=None)) == {
        (arm, seed) for arm in ("pythia", "mla") for seed in (0, 1)
    }
    assert recall_part(records, "places").empty


def test_places_are_taken_together_and_the_last_compared_with_the_first():
    losses = [1.0, 2.0, 3.0, 3.0]
    ends = {"loss_low": [loss - 0.2 for loss in losses], "loss_high": [loss + 0.2 for loss in losses]}
    places = pd.DataFrame({"arm": "context-kv", "seed": 0, "place": range(4), "loss": losses, **ends})
    parts = by_parts_of_period(places, 2)
    assert parts[["place", "loss"]].to_numpy().tolist() == [[0, 1.5], [2, 3.0]]
    assert parts["half"].tolist() == pytest.approx([0.2 / 2**0.5] * 2)
    (row,) = rise_through_period(parts).to_dict("records")
    assert (row["rise"], row["half"]) == (1.5, pytest.approx(0.2))
    nothing = by_parts_of_period(pd.DataFrame(), 2)
    assert nothing.empty and rise_through_period(nothing).empty
