"""Which arms stand for all: the baseline, those that nothing beats, and others down to the worst."""

import numpy as np
import pandas as pd
import pytest

from newllm.analysis.telling_arms import few_arms, leading_arms, telling_arms


def summary(rows):
    return pd.DataFrame(rows, columns=["arm", "kv_bytes_per_token", "perplexity"])


MANY = summary(
    [
        ("best", 1024.0, 40.0),
        ("small", 512.0, 42.0),
        *((f"arm{place}", 4096.0, 50.0 + place) for place in range(20)),
        ("pythia", 8192.0, 55.5),
        ("worst", 8192.0, 99.0),
        ("2-gram", np.nan, 120.0),
    ]
)


def test_the_baseline_the_front_and_the_worst_are_among_the_told():
    told = telling_arms(MANY, "pythia", most=7)
    assert told[:3] == ["pythia", "best", "small"]
    assert told[-1] == "worst"
    # The four others are evenly spaced among the 21 that are left.
    assert told[3:] == ["arm5", "arm10", "arm15", "worst"]


def test_of_a_few_arms_all_are_told_and_counts_never():
    few = MANY.tail(4)
    assert telling_arms(few, "pythia") == ["pythia", "arm19", "worst"]
    assert telling_arms(MANY.iloc[:2], None) == ["best", "small"]
    assert telling_arms(MANY.tail(1), None) == []


@pytest.mark.parametrize("most", range(3, 9))
def test_a_long_front_leaves_room_for_the_baseline_and_the_worst(most):
    front = [(f"front{place}", 1000.0 - place, 10.0 + place) for place in range(30)]
    told = telling_arms(summary([*front, ("pythia", 2000.0, 50.0), ("worst", 3000.0, 60.0)]), "pythia", most)
    assert len(told) == len(set(told)) <= most
    assert told[0] == "pythia" and told[-1] == "worst"
    assert "front0" in told


def test_those_that_lead_are_the_baseline_and_the_best_in_order():
    assert leading_arms(MANY, "pythia", most=4) == ["pythia", "best", "small", "arm0"]
    assert leading_arms(MANY.tail(2), "pythia") == ["worst"]


def test_three_arms_are_the_baseline_the_best_and_the_smallest():
    assert few_arms(MANY, "pythia") == ["pythia", "best", "small"]
    assert few_arms(MANY[MANY.arm != "small"], "pythia") == ["pythia", "best"]
    assert few_arms(MANY, None) == ["best", "small"]
    assert few_arms(MANY.tail(1), "pythia") == []
