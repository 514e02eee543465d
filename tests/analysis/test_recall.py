"""What records say of recall, and that nothing is ranked by a measure by which the baseline itself gains nothing."""

import json

import pandas as pd
import pytest
from scipy import stats

from newllm.analysis.recall import (
    GAIN,
    baseline_gains,
    by_parts_of_period,
    cannot_rank,
    copying_in_columns,
    gains_by_distance,
    ranked_recall,
    recall_by_arm,
    recall_differences,
    recall_part,
    rise_through_period,
    with_recall_gain,
)
from newllm.analysis.recall_findings import recall_findings


@pytest.fixture
def records(tmp_path):
    """Two arms with two seeds; the baseline gains by repeated passages and not by late positions."""
    rows = []
    for arm, gain in (("pythia", 0.5), ("mla", 0.1)):
        for seed in (0, 1):
            folder = tmp_path / f"{arm}-{seed}"
            folder.mkdir()
            kinds = (("hits", 1.0 - gain, 1.1 - gain), ("misses", 1.0, 1.1), ("others", 3.0, 3.1))
            report = {
                "tokens": [
                    {"kind": kind, "tokens": 5, "share": 1 / 3, "loss": loss, "loss_low": loss - 0.1, "loss_high": high}
                    for kind, loss, high in kinds
                ],
                "passages": [{"distance": 64, "gain": gain + seed, "gain_low": gain, "gain_high": gain + 2}],
                "position_gain": {"gain": 0.0, "gain_low": -0.1, "gain_high": 0.1},
                "places": [],
            }
            (folder / "evaluation.json").write_text(json.dumps({"recall": report}))
            row = {"arm": arm, "seed": seed, "folder": folder}
            loss = 1.0 - gain + 0.01 * seed
            losses = {"recall_hits_loss": loss, "recall_misses_loss": loss + 1, "recall_others_loss": 3.0}
            rows.append(row | losses | {"repeated_passage_gain": gain + 0.001 * seed})
    return pd.DataFrame(rows)


def test_copying_layers_stand_side_by_side_as_means_over_seeds():
    cases = [("all", 0), ("without", 1), ("without", 2), ("alone", 1), ("alone", 2)]
    rows = [
        {"attention": attention, "layer": layer, "arm": arm, "seed": seed, "passes": 1, "gain": base + place + seed}
        for arm, base in (("pythia", 0.0), ("dproj", 10.0))
        for seed in (0, 1)
        for place, (attention, layer) in enumerate(cases)
    ]
    table = copying_in_columns(pd.DataFrame(rows))
    named = ["all layers", "without 1", "without 2", "alone 1", "alone 2"]
    assert list(table) == ["arm", "passes", *named, "seeds"]
    assert list(table["arm"]) == ["dproj", "pythia"] and set(table["seeds"]) == {2}
    assert table.loc[1, named].tolist() == [0.5, 1.5, 2.5, 3.5, 4.5]


def test_gains_by_distance_are_means_over_seeds(records):
    found = gains_by_distance(records).set_index("arm")
    assert found.gain.to_dict() == pytest.approx({"pythia": 1.0, "mla": 0.6})
    assert (found.distance == 64).all() and (found.seeds == 2).all()
    # The seeds of both arms are 1 apart: a variance of 1/2 with two degrees of freedom.
    half = stats.t.ppf(0.975, 2) * (0.5 / 2) ** 0.5
    assert (found.gain_high - found.gain).tolist() == pytest.approx([half, half])
    assert (found.gain - found.gain_low).tolist() == pytest.approx([half, half])


def test_the_baselines_own_gain_decides_what_can_be_told(records):
    gains = baseline_gains(records, "pythia").set_index("measure")
    assert gains.verdict["late positions"] == "cannot tell at this budget"
    passages = gains.loc["a passage said again after 64 tokens"]
    assert (passages.gain, passages.gain_low, passages.verdict) == (1.0, 0.5, "can tell")
    assert gains.least_seed.notna().all() and (gains.least_seed <= gains.gain).all()
    assert (gains.most_seed >= gains.gain).all()
    pairs = gains.loc["pairs seen before, beside the same with another end"]
    assert pairs.gain == pytest.approx(0.5)
    assert pairs.gain - pairs.gain_low == pytest.approx(0.1 * 2**0.5)


def rewrite(records, **changes):
    """Change what the reports of all trials say."""
    for folder in records.folder:
        path = folder / "evaluation.json"
        stored = json.loads(path.read_text())
        stored["recall"] |= changes
        path.write_text(json.dumps(stored))


def test_arms_stand_in_the_order_of_what_the_baseline_gains_by(records):
    columns = {"pairs": "loss on pairs seen before (nats)", "late": "gain of late positions (nats)"}
    records["repeated_passage_gain"] *= -1  # another order than that of the losses on pairs
    assert cannot_rank(records, "pythia") == [columns["late"]]
    assert list(ranked_recall(records, "pythia").arm) == ["pythia", "mla"]
    rewrite(records, tokens=[])
    assert cannot_rank(records, "pythia") == [columns["pairs"], columns["late"]]
    assert list(ranked_recall(records, "pythia").arm) == ["mla", "pythia"]
    no_gain = {"gain": 0.1, "gain_low": -0.1, "gain_high": 0.3}
    rewrite(records, passages=[no_gain | {"distance": 64, "gain_low": 0.05}, no_gain | {"distance": 128}])
    assert cannot_rank(records, "pythia") == [*columns.values(), GAIN]
    assert list(ranked_recall(records.iloc[::-1], "pythia").arm) == ["mla", "pythia"]


def test_without_the_baseline_nothing_is_said(records):
    assert baseline_gains(records[records.arm == "mla"], "pythia").empty


def test_arms_are_means_over_seeds_and_the_best_at_pairs_stands_first(records):
    table = recall_by_arm(records)
    assert list(table.arm) == ["pythia", "mla"]
    assert list(table["loss on pairs seen before (nats)"]) == pytest.approx([0.505, 0.905])
    assert "gain of late positions (nats)" not in table


def test_a_summary_is_joined_by_what_is_gained_and_seeds_are_pooled_over_one_budget(records):
    summary = pd.DataFrame({"arm": ["mla", "2-gram", "pythia"], "equal_budget": True})
    table = with_recall_gain(summary, records).set_index("arm")
    assert list(table.index) == list(summary.arm)
    assert table[GAIN].dropna().to_dict() == pytest.approx({"mla": 0.1005, "pythia": 0.5005})
    widths = table[f"{GAIN}_high"] - table[f"{GAIN}_low"]
    other = records.assign(parameters=[{"epochs": 2 if arm == "mla" else 1} for arm in records.arm])
    apart = with_recall_gain(summary, other).set_index("arm")
    assert (apart[f"{GAIN}_high"] - apart[f"{GAIN}_low"] > widths)[["mla", "pythia"]].all()


def test_parts_name_their_trial(records):
    tokens = recall_part(records, "tokens")
    assert len(tokens) == 3 * len(records)
    assert set(tokens[["arm", "seed"]].itertuples(index=False, name=None)) == {
        (arm, seed) for arm in ("pythia", "mla") for seed in (0, 1)
    }
    assert recall_part(records, "places").empty


def test_differences_from_the_baseline_have_the_interval_of_two_means(records):
    recall = recall_by_arm(records)
    differences = recall_differences(records, "pythia").set_index("kind")
    assert set(differences.arm) == {"mla"}
    seen = differences.loc["pair seen before"]
    assert seen.difference == pytest.approx(0.4)
    # Both halves of an interval are alike, as two arms of two seeds pool one variance.
    half = (recall["loss on pairs seen before (nats)_high"] - recall["loss on pairs seen before (nats)"]).iloc[0]
    assert seen.difference_high - seen.difference == pytest.approx(half * 2**0.5)
    assert differences.difference["all other tokens"] == 0
    assert recall_differences(records, None).empty
    other = records.assign(parameters=[{"epochs": 2 if arm == "mla" else 1} for arm in records.arm])
    assert recall_differences(other, "pythia").empty, "nothing was trained as the baseline was"


SUMMARY = pd.DataFrame({"arm": ["mla", "pythia"], "perplexity": [40.0, 45.0], "equal_budget": True})


def test_findings_name_who_gains_nothing_and_set_the_best_beside_the_baseline(records):
    able, nothing, best = recall_findings(records, SUMMARY, "pythia")
    assert "2 of 3 measures" in able and "late positions" in able
    assert "64 tokens" in nothing and "no arm; a gain is told of 2 of 2" in nothing
    assert "none of 1 arm of" in best and "`mla` 0.101 (less)" in best
    assert "one seed" not in best
    _, _, best = recall_findings(records[records.seed == 0], SUMMARY, "pythia")
    assert "With one seed" in best


def test_a_gain_below_the_margin_is_nothing(records):
    for folder in records.loc[records.arm == "mla", "folder"]:
        path = folder / "evaluation.json"
        stored = json.loads(path.read_text())
        stored["recall"]["passages"] = [{"distance": 64, "gain": 0.001, "gain_low": 0.0005, "gain_high": 0.002}]
        path.write_text(json.dumps(stored))
    _, nothing, _ = recall_findings(records, SUMMARY, "pythia")
    assert "gained by `mla`; a gain is told of 1 of 2" in nothing


def test_without_the_baseline_nobody_knows_what_measures_tell(records):
    first, *_ = recall_findings(records[records.arm == "mla"], SUMMARY, None)
    assert first.startswith("Without the baseline")


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
