"""What a budget tells apart: foretold from few seeds, and true of as many seeds as were foretold."""

import json

import numpy as np
import pandas as pd
import pytest

from newllm.analysis.budgets import told_apart, told_by_text
from newllm.analysis.differences import compare_pairs, read_losses
from newllm.experiments.scoring import EVALUATION_FILE

DOCUMENTS, WINDOWS = 20, 6
GROUPS = np.repeat(np.arange(DOCUMENTS), WINDOWS)


def trials(folder, seeds_by_arm, seed_deviation):
    """Records of trials of half an hour, whose losses vary by document, window and seed."""
    generator = np.random.default_rng(3)
    hard = generator.normal(4, 1, len(GROUPS))
    rows = []
    for number, (arm, seeds) in enumerate(seeds_by_arm.items()):
        own = generator.normal(0, 0.01, DOCUMENTS)[GROUPS] + 0.05 * number
        for seed in range(seeds):
            losses = hard + own + generator.normal(0, seed_deviation)
            place = folder / f"{arm}-seed{seed}"
            place.mkdir(parents=True)
            stored = {"window_losses": losses.tolist(), "window_groups": GROUPS.tolist()}
            (place / EVALUATION_FILE).write_text(json.dumps(stored))
            rows.append({"arm": arm, "seed": seed, "folder": str(place), "duration_seconds": 1800.0})
    return pd.DataFrame(rows)


def test_what_is_foretold_of_three_seeds_is_found_with_three_seeds(tmp_path):
    records = trials(tmp_path, {"pythia": 3, "mla": 3, "mqa": 3, "context": 3}, 0.02)
    foretold = told_apart(records, "pythia", seeds=[3])["reach"].item()
    losses = {arm: read_losses(rows) for arm, rows in records.groupby("arm", sort=False)}
    pairs = [(arm, "pythia") for arm in losses if arm != "pythia"]
    found = [(row["difference_high"] - row["difference_low"]) / 2 for row in compare_pairs(losses, pairs)]
    assert foretold == pytest.approx(np.median(found), rel=0.15)


def test_more_seeds_tell_more_until_documents_are_all_that_is_unknown(tmp_path):
    table = told_apart(
        trials(tmp_path, {"pythia": 2, "mla": 2, "mqa": 1}, 0.02), "pythia", seeds=[1, 4, 10_000, 40_000]
    )
    assert table["hours"].tolist()[:2] == [1.0, 4.0]
    assert table["reach"].is_monotonic_decreasing
    assert table["reach"].iloc[0] > 1.5 * table["reach"].iloc[1]
    assert table["reach"].iloc[2] == pytest.approx(table["reach"].iloc[3], rel=1e-2)


def test_more_text_is_compared_by_the_seeds_that_all_have(tmp_path):
    kinds = (
        (1000, {"pythia": 2, "mla": 2}),
        ("all", {"pythia": 3, "mla": 2, "mqa": 2}),
        (3000, {"pythia": 2, "mla": 3}),
    )
    frames = []
    for samples, seeds in kinds:
        frame = trials(tmp_path / str(samples), seeds, 0.02)
        frames.append(frame.assign(perplexity=30.0, parameters=[{"samples": samples}] * len(frame)))
    table = told_by_text(pd.concat(frames, ignore_index=True), "mla", "pythia")
    assert table["samples"].tolist() == [1000, 3000, "all"]
    assert table["seeds"].tolist() == [2, 2, 2]
    assert table["minutes"].tolist() == [30.0] * 3
    assert (table["difference_low"] < table["difference"]).all()


def test_of_text_that_one_arm_did_not_read_nothing_is_compared(tmp_path):
    frame = trials(tmp_path, {"pythia": 2}, 0.02)
    assert told_by_text(frame.assign(parameters=[{"samples": 9}] * 2), "mla", "pythia").empty


def test_nothing_is_foretold_from_seeds_that_are_not_there(tmp_path):
    assert told_apart(trials(tmp_path, {"pythia": 2, "mla": 1}, 0.02), "pythia").empty
