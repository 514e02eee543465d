"""Differences and verdicts: what is certain is told, what is not is not, and no arm is compared with another budget."""

import json

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from newllm.analysis.differences import OTHER_BUDGET, ArmLosses, compare_pairs, read_losses
from newllm.analysis.summary import summarize_arms
from newllm.evaluation.comparison_statistics import two_way_difference
from newllm.evaluation.verdicts import BETTER, EQUIVALENT, OPEN, TOO_FEW_SEEDS, WORSE

WINDOWS, SEEDS = 120, (0, 1, 2)
GROUPS = np.repeat(np.arange(20), 6)


def losses_of(
    shift: float, noise: float = 0.02, seed_noise: float = 0.001, seeds: tuple[int, ...] = SEEDS
) -> ArmLosses:
    """Losses of an arm that is worse by ``shift`` on windows that are as hard for all arms."""
    hard = np.random.default_rng(7).normal(4, 1, WINDOWS)
    own = np.random.default_rng(round(1000 * shift) + 2000)
    return ArmLosses(
        {
            seed: hard + shift + own.normal(0, noise, WINDOWS) + (own.normal(0, seed_noise) if seed_noise else 0.0)
            for seed in seeds
        },
        GROUPS,
    )


def test_verdicts_tell_what_is_certain_and_nothing_else():
    losses = {"base": losses_of(0), "worse": losses_of(0.1), "better": losses_of(-0.1), "equal": losses_of(0.0001)}
    pairs = [(name, "base") for name in losses if name != "base"]
    found = {pair[0]: row for pair, row in zip(pairs, compare_pairs(losses, pairs), strict=True)}
    verdicts = {name: row["verdict"] for name, row in found.items()}
    assert verdicts == {"worse": WORSE, "better": BETTER, "equal": EQUIVALENT}
    assert found["worse"]["difference_low"] < 0.1 < found["worse"]["difference_high"]
    (noisy,) = compare_pairs({"base": losses_of(0), "noisy": losses_of(0.02, noise=0.8)}, [("noisy", "base")])
    assert noisy["verdict"] == OPEN


@given(st.floats(-1, 1), st.integers(0, 99))
def test_the_other_way_round_the_verdict_is_turned(shift, seed):
    noise = np.random.default_rng(seed).normal(0, 0.1, (3, WINDOWS))
    arms = {"a": ArmLosses(dict(enumerate(4 + noise)), GROUPS), "b": losses_of(shift)}
    there, back = compare_pairs(arms, [("a", "b"), ("b", "a")])
    turned = {BETTER: WORSE, WORSE: BETTER}
    assert back["verdict"] == turned.get(there["verdict"], there["verdict"])
    assert back["difference"] == pytest.approx(-there["difference"])


def test_one_seed_tells_nothing_of_other_seeds():
    losses = {"base": losses_of(0, seeds=(0,)), "worse": losses_of(0.5, seeds=(0,))}
    (row,) = compare_pairs(losses, [("worse", "base")])
    assert row["verdict"] == TOO_FEW_SEEDS
    assert 0.4 < row["difference_low"] < row["difference_high"] < 0.6


def test_many_comparisons_are_paid_for():
    one = compare_pairs({"base": losses_of(0), "arm": losses_of(0.02)}, [("arm", "base")])
    many = compare_pairs({"base": losses_of(0), "arm": losses_of(0.02)}, [("arm", "base")] * 5)
    assert many[0]["difference_p"] == pytest.approx(min(5 * one[0]["difference_p"], 1))


def test_the_seeds_of_all_arms_make_one_variance():
    steady, restless = losses_of(0.05, seed_noise=0.0), losses_of(0.3, seed_noise=0.3)
    base = losses_of(0, seed_noise=0.0)
    alone, _ = compare_pairs({"base": base, "arm": steady}, [("arm", "base")] * 2)
    beside, _ = compare_pairs({"base": base, "arm": steady, "other": restless}, [("arm", "base")] * 2)
    assert beside["difference"] == alone["difference"]
    assert beside["difference_high"] - beside["difference_low"] > alone["difference_high"] - alone["difference_low"]
    same, _ = compare_pairs(
        {"base": base, "arm": steady, "other": restless}, [("arm", "base")] * 2, have_same_weights=True
    )
    apart = np.stack([steady.by_seed[seed] - base.by_seed[seed] for seed in SEEDS])
    bare = two_way_difference(apart, np.zeros_like(apart), GROUPS, has_seeds=(True, False))
    assert same["difference_low"] == pytest.approx(bare.interval.low)


def test_counts_stand_beside_every_seed():
    counted = ArmLosses({0: losses_of(0.2).by_seed[1]}, GROUPS, has_seeds=False)
    base = losses_of(0, seeds=(3, 4))
    (row,) = compare_pairs({"4-gram": counted, "base": base}, [("4-gram", "base")])
    assert row["difference"] == pytest.approx(np.mean([counted.by_seed[0] - base.by_seed[seed] for seed in (3, 4)]))


def test_all_seeds_of_both_arms_count_whichever_they_are():
    base, arm = losses_of(0, seeds=(0, 1)), losses_of(0.1, seeds=(7,))
    (row,) = compare_pairs({"base": base, "arm": arm}, [("arm", "base")])
    assert row["difference"] == pytest.approx(arm.by_seed[7].mean() - np.mean(base.means()))


def test_equivalence_is_paid_for_too():
    arms = {"base": losses_of(0), "equal": losses_of(0.004, noise=0.015)}
    (alone,) = compare_pairs(arms, [("equal", "base")])
    assert alone["verdict"] == EQUIVALENT
    assert compare_pairs(arms, [("equal", "base")] * 2000)[0]["verdict"] == OPEN


def test_other_windows_are_not_compared():
    other = ArmLosses({seed: losses_of(0).by_seed[0][:60] for seed in SEEDS}, GROUPS[:60])
    arms = {"base": losses_of(0), "other": other, "unknown": None}
    assert compare_pairs(arms, [(name, "base") for name in ("other", "unknown")]) == [{}, {}]


@pytest.fixture
def records(tmp_path):
    """Three arms on the same data, one of them trained for longer and one on a stream."""
    rows = []
    for arm, shift, epochs in (("pythia", 0.0, 1), ("mla", 0.1, 1), ("mqa", -0.5, 2), ("cascade-oacd", -0.6, 1)):
        losses = losses_of(shift)
        for seed in SEEDS:
            folder = tmp_path / "run" / f"{arm}-{seed}"
            folder.mkdir(parents=True)
            scores = {"window_losses": losses.by_seed[seed].tolist(), "window_groups": GROUPS.tolist()}
            (folder / "evaluation.json").write_text(json.dumps(scores))
            given = {"data": "a1", "samples": 9, "seq_length": 8, "epochs": epochs, "lr": 1e-3, "matrix_lr": "adamw"}
            row = {"arm": arm, "method": arm.partition("-")[0], "seed": seed, "parameters": given, "folder": folder}
            row |= {"parameter_count": 10, "kv_bytes_per_token": 4.0, "kv_bytes": 64}
            rows.append(row | {"perplexity": float(np.exp(losses.by_seed[seed].mean()))})
    return pd.DataFrame(rows)


def test_unequal_budgets_stand_below_and_have_no_difference(records):
    table = summarize_arms(records, baseline="pythia")
    assert list(table["arm"]) == ["pythia", "mla", "cascade-oacd", "mqa"]
    assert list(table["equal_budget"]) == [True, True, False, False]
    assert list(table["verdict"]) == ["", WORSE, OTHER_BUDGET, OTHER_BUDGET]
    assert list(table["difference"].notna()) == [False, True, False, False]
    assert {"difference_low", "difference_high", "difference_p"} <= set(table)
    # A learning rate that suits an arm is no larger budget.
    given = [row["parameters"] | ({"lr": 0.1} if row["arm"] == "mla" else {}) for row in records.to_dict("records")]
    tuned = records.assign(parameters=given)
    assert summarize_arms(tuned, baseline="pythia").set_index("arm").loc["mla", "verdict"] == WORSE
    assert "verdict" not in summarize_arms(records)


SPOILED = {
    "damaged": lambda text: "{}",
    "nested": lambda text: "[" * 100_000,
    "fewer documents": lambda text: json.dumps({"window_losses": [1.0, 2.0], "window_groups": [0, 1]}),
    "other documents": lambda text: text.replace("19]", "20]"),
    "not finite": lambda text: '{"window_losses": [1.0, null], "window_groups": [0, 1]}',
}


@pytest.mark.parametrize("kind", SPOILED)
@pytest.mark.parametrize("place", [0, 1])
def test_a_difference_is_of_the_trials_that_the_mean_is_of(records, caplog, kind, place):
    file = records.loc[records["arm"] == "mla", "folder"].iloc[place] / "evaluation.json"
    before = file.read_text()
    file.write_text(SPOILED[kind](before))
    assert file.read_text() != before
    assert read_losses(records[records["arm"] == "mla"]) is None
    assert "evaluation.json is " in caplog.text and "no difference is taken of mla" in caplog.text
    table = summarize_arms(records, baseline="pythia").set_index("arm")
    assert table.loc["mla", "seeds"] == len(SEEDS)
    assert np.isnan(table.loc["mla", "difference"])
    assert table.loc["mla", "verdict"] == ""


def test_the_losses_of_one_seed_that_are_gone_are_told_and_of_all_seeds_are_not(records, caplog):
    first, *others = records.loc[records["arm"] == "mla", "folder"]
    (first / "evaluation.json").unlink()
    assert read_losses(records[records["arm"] == "mla"]) is None
    assert f"{first / 'evaluation.json'} is missing: no difference is taken of mla." in caplog.text
    caplog.clear()
    for folder in others:
        (folder / "evaluation.json").unlink()
    assert read_losses(records[records["arm"] == "mla"]) is None
    assert not caplog.text


@pytest.mark.parametrize("shift", [0.0, 1e-4])
def test_one_document_gives_no_verdict_however_many_seeds_read_it(shift):
    windows, group = np.random.default_rng(0).normal(4, 1, 50), np.zeros(50, dtype=np.int64)
    arms = {
        "a": ArmLosses({0: windows, 1: windows + shift}, group),
        "b": ArmLosses({0: windows + 0.02, 1: windows + 0.02 + shift}, group),
    }
    for have_same_weights in (False, True):
        (row,) = compare_pairs(arms, [("a", "b")], have_same_weights=have_same_weights)
        assert row["verdict"] == OPEN
        assert row["difference_p"] == 1
        assert np.isnan([row["difference_low"], row["difference_high"]]).all()
        assert row["difference"] == pytest.approx(-0.02)
