"""± is half of a 95 % interval wherever it is written, and nothing is written that was not measured."""

import math

import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from newllm.analysis.wording import arms_table, plus_minus, with_interval
from newllm.evaluation.statistics import mean_interval


@given(st.lists(st.floats(1, 1000), min_size=2, max_size=6))
def test_what_stands_behind_plus_minus_is_half_of_the_interval_over_seeds(values):
    found = mean_interval(values)
    mean, half = map(float, plus_minus(found.columns("perplexity"), "perplexity", "{:.6f}").split(" ± "))
    assert mean == pytest.approx(found.mean, abs=1e-6)
    assert half == pytest.approx((found.high - found.low) / 2, abs=1e-6)


@pytest.mark.parametrize("row", [{"x": 2.0, "x_low": math.nan, "x_high": math.nan}, {"x": 2.0}])
def test_one_seed_has_no_plus_minus(row):
    assert plus_minus(row, "x", "{:.2f}") == "2.00"


def test_what_was_not_measured_is_empty():
    assert plus_minus({"x": math.nan}, "x", "{:.2f}") == plus_minus({}, "x", "{:.2f}") == ""
    assert with_interval({}, "difference") == with_interval({"difference": math.nan}, "difference") == ""
    row = {"difference": -0.5, "difference_low": -0.75, "difference_high": -0.25}
    assert with_interval(row, "difference", 2) == "-0.50 [-0.75, -0.25]"


def test_a_table_leaves_out_columns_in_which_no_row_has_anything():
    cost = {"parameter_count": 1_500_000, "kv_bytes_per_token": 8192.0}
    summary = pd.DataFrame(
        [
            {"lr": 0.1, "arm": "mla", "seeds": 2, **cost, **mean_interval([90.0, 92.0]).columns("perplexity")},
            {"lr": 0.1, "arm": "dproj", "seeds": 1, **cost, "perplexity": 95.0, "convergence_rate": 0.934},
        ]
    )
    table = arms_table(summary)
    assert list(table) == ["lr", "arm", "parameters", "KV bytes/token", "perplexity", "converged", "seeds"]
    assert table["perplexity"][0].startswith("91.0 ± 12.7")
    assert list(table["converged"]) == ["", "93%"]
    assert table["parameters"][0] == "1,500,000"
