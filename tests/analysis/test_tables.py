"""Tables as a reader needs them: nothing is NaN, an interval is one ±, and bars begin at zero."""

import math

import numpy as np
import pandas as pd
from hypothesis import given
from hypothesis import strategies as st

from newllm.analysis.tables import BAR_LENGTH, BARS, arms_table, bars, readable
from newllm.evaluation.statistics import mean_interval
from newllm.notebook.tables import show_arms

MLA = {"lr": 0.1, "arm": "mla", "seeds": 2, "parameter_count": 1_500_000, "kv_bytes_per_token": 8192.0}
DPROJ = MLA | {"arm": "dproj", "seeds": 1, "kv_bytes_per_token": 4096.0, "perplexity": 95.0}
DPROJ |= {"convergence_rate": 0.934, "effective_rank": 0.75, "block_width": 160.0, "difference": 0.05}
DPROJ |= {"difference_low": 0.03, "difference_high": 0.07, "accuracy": 0.25, "budget": "8 k tokens, one pass, rate 0.1"}
MLA |= {"budget": "8 k tokens, 2 passes, rate 0.1"}


def test_an_arm_is_a_row_of_the_columns_of_every_table():
    summary = pd.DataFrame([MLA | mean_interval([90.0, 92.0]).columns("perplexity"), DPROJ])
    table = arms_table(summary, "mla")
    assert list(table)[:7] == ["lr", "arm", "parameters", "KV bytes a token (measured)", BARS, "perplexity", "accuracy"]
    assert list(table)[7:10] == ["converged (worst block)", "effective rank", "nats/token from mla"]
    assert list(table)[10:] == ["seeds", "trained with"]
    first, second = table.to_dict("records")
    assert first["perplexity"].startswith("91.0 ± 12.7")
    assert first["parameters"] == "1,500,000"
    assert (first["converged (worst block)"], second["converged (worst block)"]) == ("", "93%")
    assert second["effective rank"] == "75% of 160"
    assert second["nats/token from mla"] == "+0.050 ± 0.020"
    assert (first[BARS].strip(), second[BARS].strip()) == ("█" * BAR_LENGTH, "█" * (BAR_LENGTH // 2))


def test_one_budget_of_all_arms_is_said_below_the_table_and_not_in_each_row():
    alike = pd.DataFrame([MLA, DPROJ | {"budget": MLA["budget"]}, {"arm": "2-gram", "perplexity": 157.0}])
    heading = "trained with"
    assert heading not in arms_table(alike)
    assert show_arms(alike).caption.startswith("All arms were trained with 8 k tokens, 2 passes, rate 0.1.")
    different = pd.DataFrame([MLA, DPROJ])
    assert list(arms_table(different)[heading]) == [row["budget"] for row in (MLA, DPROJ)]
    assert heading not in show_arms(different).caption


numbers = st.floats(allow_nan=True, allow_infinity=False, width=32) | st.none() | st.integers(-9, 9) | st.text("ab")


@given(st.lists(st.fixed_dictionaries({"x": numbers, "arm": st.text("ab"), "seeds": numbers}), min_size=1, max_size=4))
def test_nothing_is_ever_nan_and_no_column_is_empty(rows):
    table = readable(pd.DataFrame(rows))
    texts = table.to_numpy().ravel()
    assert all(isinstance(text, str) and "nan" not in text and text != "None" for text in texts)
    assert all((table[column] != "").any() for column in table)


def test_the_ends_of_an_interval_are_one_plus_minus_even_without_a_mean():
    row = {"difference": -0.5, "difference_low": -0.75, "difference_high": -0.25}
    row |= {"x_over_seeds_low": math.nan, "x_over_seeds_high": math.nan}
    assert list(readable(pd.DataFrame([row]))) == ["nats/token from the baseline"]
    table = readable(pd.DataFrame([row | {"x_over_seeds_low": -1.0, "x_over_seeds_high": 1.0}]))
    assert list(table.iloc[0]) == ["-0.500 ± 0.250", "± 1"]


def test_what_a_step_of_decoding_holds_has_a_heading_of_its_own():
    held = pd.DataFrame([{"tokens_before": 1024, "cache_mib": 0.5, "peak_mib": 0.52537}])
    assert list(readable(held)) == ["tokens read before", "cache (MiB)", "cache and step together (MiB)"]
    assert list(readable(held).iloc[0]) == ["1,024", "0.500", "0.525"]


def test_gains_have_the_decimals_of_every_difference_and_no_margin_is_less_than_nothing_by_its_sign_alone():
    gains = pd.DataFrame([{"gain": 0.046861, "gain_low": 0.003749, "gain_high": 0.089973}])
    assert readable(gains).to_dict("records") == [{"gain (nats/token)": "0.047 ± 0.043"}]
    assert readable(pd.DataFrame([{"margin": -0.00001}])).to_dict("records") == [
        {"margin of the right name (nats)": "0.0000"}
    ]


@given(st.lists(st.floats(0, 1e6, allow_subnormal=False), min_size=1, max_size=6))
def test_bars_are_as_long_as_their_numbers_and_all_as_wide(values):
    drawn = bars(values)
    lengths = np.array([len(bar.rstrip()) for bar in drawn])
    assert {len(bar) for bar in drawn} == {BAR_LENGTH}
    assert all((length == 0) == (value == 0) for length, value in zip(lengths, values, strict=True))
    assert (np.abs(lengths - BAR_LENGTH * np.array(values) / (max(values) or 1)) <= 1).all()
