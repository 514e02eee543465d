"""How much seeds vary, arm by arm, and which verdicts turn where one arm is left out of the pool."""

import json

import numpy as np
import pandas as pd
import pytest

from newllm.analysis.seed_spread import losses_of_budget, p_of_equal_spread, seed_spread, verdicts_by_pooling
from newllm.analysis.summary import summarize_arms
from newllm.evaluation.verdicts import BETTER, OPEN
from newllm.experiments.scoring import EVALUATION_FILE

GROUPS = np.repeat(np.arange(20), 3)


def trials(folder, seeds_by_arm: dict[str, list[float]]) -> pd.DataFrame:
    """Records of trials whose losses are those of all arms, moved by so much for each seed."""
    hard = np.random.default_rng(1).normal(4, 0.5, len(GROUPS))
    rows = []
    for arm, moves in seeds_by_arm.items():
        for seed, move in enumerate(moves):
            place = folder / f"{arm}-{seed}"
            place.mkdir(parents=True)
            stored = {"window_losses": (hard + move).tolist(), "window_groups": GROUPS.tolist()}
            (place / EVALUATION_FILE).write_text(json.dumps(stored))
            rows.append({"arm": arm, "method": arm, "seed": seed, "folder": str(place), "perplexity": 60.0})
    return pd.DataFrame(rows)


STEADY = {"pythia": [-0.001, 0.0, 0.001], "mqa": [-0.023, -0.021, -0.019]}


def test_the_spread_of_an_arm_is_that_of_its_own_seeds(tmp_path):
    spread = seed_spread(losses_of_budget(trials(tmp_path, STEADY | {"ka": [0.1, 0.2, 0.3], "mla": [0.5]}), "pythia"))
    assert spread["arm"].tolist() == ["pythia", "mqa", "ka"], "one seed tells of no other"
    assert spread["spread"].tolist() == pytest.approx([0.001, 0.002, 0.1])
    assert spread["seeds"].tolist() == [3, 3, 3]


def test_one_unsteady_arm_is_noticed(tmp_path):
    records = trials(tmp_path, STEADY | {"ka": [0.1, 0.2, 0.3], "mla": [0.5]})
    assert p_of_equal_spread(losses_of_budget(records, "pythia")) < 0.001
    assert p_of_equal_spread(losses_of_budget(records[records["arm"] != "ka"], "pythia")) > 0.2
    assert np.isnan(p_of_equal_spread(losses_of_budget(records[records["arm"] == "pythia"], "pythia")))


def test_a_verdict_that_one_unsteady_arm_decides_is_found(tmp_path):
    records = trials(tmp_path, STEADY | {"ka": [0.1, 0.2, 0.3], "mla": [0.5]})
    table = verdicts_by_pooling(losses_of_budget(records, "pythia"), "pythia").set_index(["arm", "left_out"])["verdict"]
    published = summarize_arms(records, "pythia").set_index("arm")["verdict"]
    for arm in ("mqa", "ka", "mla"):
        assert table[arm, ""] == published[arm]
    assert (table["mqa", ""], table["mqa", "ka"], table["mqa", "pythia"]) == (OPEN, BETTER, OPEN)
    assert ("mqa", "mla") not in table.index, "an arm of one seed is in no pool"
