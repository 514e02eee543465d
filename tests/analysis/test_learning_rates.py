"""A best learning rate is established inside its grid only, and a winner with such a one for every arm."""

import json
import math

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from newllm.analysis.learning_rates import best_learning_rates, gained_by_rates, judge, with_learning_rate
from newllm.config.errors import ParameterError
from newllm.experiments.scoring import EVALUATION_FILE

RATES = (1e-4, 3e-4, 1e-3, 3e-3)


def records(losses: dict[str, list[float]], seeds: int = 1, method: str = "pythia") -> pd.DataFrame:
    """Make a record for each arm, learning rate and seed; each seed is worse by 0.01 than the one before."""
    return pd.DataFrame(
        [
            {
                "arm": arm,
                "method": method,
                "seed": seed,
                "validation_loss": loss + 0.01 * seed,
                "parameters": {"lr": rate, "stream_lr": 7 * rate, "matrix_lr": "adamw"},
            }
            for arm, row in losses.items()
            for rate, loss in zip(RATES, row, strict=True)
            for seed in range(seeds)
        ]
    )


# In steps of a millionth: means over seeds would round away a difference in the last bit.
LOSSES = st.integers(1_000_000, 9_000_000).map(lambda millionths: millionths / 1e6)


@given(st.lists(LOSSES, min_size=4, max_size=4, unique=True), st.integers(1, 3))
def test_the_best_is_the_lowest_and_established_inside_only(losses, seeds):
    best = best_learning_rates(records({"a": losses}, seeds)).iloc[0]
    place = losses.index(min(losses))
    assert best["learning_rate"] == RATES[place]
    assert best["place"] == ("lowest", "inside", "inside", "highest")[place]
    assert best["established"] == (0 < place < 3)
    assert (best["grid"], best["seeds"]) == (RATES, seeds)
    assert best["validation_loss"] == pytest.approx(min(losses) + 0.01 * (seeds - 1) / 2)


def test_the_rate_that_differs_is_the_one_that_is_judged():
    rows = records({"a": [5.0, 4.0, 4.5, 6.0]})
    of_muon = [{"lr": 1e-3, "stream_lr": 7e-3, "matrix_lr": rate} for rate in RATES]
    assert list(with_learning_rate(rows.assign(parameters=of_muon))["learning_rate"]) == list(RATES)
    alike = rows.assign(parameters=[{"lr": 1e-3, "stream_lr": 7e-3, "matrix_lr": 4e-3}] * len(rows))
    assert set(with_learning_rate(alike)["learning_rate"]) == {1e-3}
    with pytest.raises(ParameterError, match="one at a time"):
        with_learning_rate(rows.assign(parameters=[{**row, "lr": 10 * row["matrix_lr"]} for row in of_muon]))
    with pytest.raises(ParameterError, match="no grid of learning rates"):
        with_learning_rate(rows.assign(parameters=[*of_muon[:3], {**of_muon[3], "matrix_lr": "adamw"}]))


def test_a_loss_that_was_not_finite_is_never_the_best():
    best = best_learning_rates(records({"a": [5.0, 4.0, 4.5, math.nan]})).iloc[0]
    assert (best["learning_rate"], best["place"]) == (3e-4, "inside")


def test_other_seeds_do_not_compare():
    some = records({"a": [5.0, 4.0, 4.5, 6.0]}, seeds=2).drop(index=3)
    with pytest.raises(ParameterError, match="finish the grid first"):
        best_learning_rates(some)


def test_a_winner_needs_every_arm_settled():
    settled = {"a": [5.0, 4.0, 4.5, 6.0], "b": [5.0, 4.2, 4.5, 6.0]}
    assert "a has the lowest" in judge(records(settled, seeds=2))
    assert "an established winner" in judge(records(settled, seeds=2))
    assert "no winner is established on 1 shared seed" in judge(records(settled))
    open_end = settled | {"c": [7.0, 6.0, 5.5, 5.0]}
    assert "No winner is established" in judge(records(open_end, seeds=2))
    assert "that of c, 0.003, is the highest that was tried" in judge(records(open_end, seeds=2))


def test_equal_arms_have_no_winner():
    rows = records({"a": [5.0, 4.0, 4.5, 6.0], "b": [5.0, 4.0, 4.5, 6.0]}, seeds=3)
    assert "no established winner" in judge(rows)


def test_stream_models_have_their_own_rate():
    best = best_learning_rates(records({"a": [5.0, 4.0, 4.5, 6.0]}, method="cascade")).iloc[0]
    assert best["learning_rate"] == 7 * 3e-4


def trained_at(folder, rate: float, gains: dict[str, float]) -> pd.DataFrame:
    """Trials of two seeds at a rate of the matrices; each arm is better by its gain than all are otherwise."""
    groups = np.repeat(np.arange(20), 3)
    hard = np.random.default_rng(5).normal(4, 0.5, len(groups))
    rows = []
    for arm, gain in gains.items():
        for seed in (0, 1):
            place = folder / f"{arm}-{rate}-{seed}"
            place.mkdir()
            losses = hard - gain + 0.002 * seed
            stored = {"window_losses": losses.tolist(), "window_groups": groups.tolist()}
            (place / EVALUATION_FILE).write_text(json.dumps(stored))
            row = {"arm": arm, "seed": seed, "folder": str(place), "perplexity": math.exp(losses.mean())}
            rows.append(row | {"parameters": {"matrix_lr": rate}, "repeated_passage_gain": 100 * rate + seed})
    return pd.DataFrame(rows)


def test_another_rate_is_compared_with_the_same_arm_at_the_rate_of_the_table(tmp_path):
    usual = trained_at(tmp_path, 0.004, {"pythia": 0.0, "narrow": 0.5, "mla": 0.0})
    others = trained_at(tmp_path, 0.008, {"narrow": 0.6, "pythia": -0.1, "cla": 9.0})
    found = gained_by_rates(pd.concat([others, others]), usual).set_index("arm")
    assert list(found.index) == ["narrow", "pythia"], "cla was not trained at the rate of the table"
    assert found["difference"].tolist() == pytest.approx([-0.1, 0.1])
    assert found["verdict"].tolist() == ["better", "worse"]
    assert (found["rate"].unique().item(), found["usual_rate"].unique().item()) == (0.008, 0.004)
    assert (found["seeds"] == 2).all() and (found["usual_seeds"] == 2).all()
    assert found["recalled"].tolist() == pytest.approx([1.3, 1.3])
    assert found["usual_recalled"].tolist() == pytest.approx([0.9, 0.9])
    silent = gained_by_rates(*(trials.drop(columns="repeated_passage_gain") for trials in (others, usual)))
    assert silent[["recalled", "usual_recalled"]].isna().all(axis=None)
    assert np.log(found["perplexity"] / found["usual_perplexity"]).tolist() == pytest.approx([-0.1, 0.1])
    with pytest.raises(ParameterError, match=r"one rate of the matrices, not \[0.004, 0.008\]"):
        gained_by_rates(others, pd.concat([usual, others]))


def test_rates_of_unlike_budgets_are_not_compared(tmp_path):
    usual = trained_at(tmp_path, 0.004, {"pythia": 0.0, "narrow": 0.5})
    others = trained_at(tmp_path, 0.008, {"narrow": 0.6})
    less = others.assign(parameters=[given | {"samples": 3000} for given in others["parameters"]])
    with pytest.raises(ParameterError, match=r"narrow was trained with several budgets"):
        gained_by_rates(less, usual)
