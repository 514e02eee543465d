"""Sentences on needles and cut contexts say what the tables say, and nothing where the baseline is at chance."""

import numpy as np
import pandas as pd
import pytest

from newllm.analysis.past_findings import needle_findings, truncation_findings
from newllm.analysis.recall import CANNOT_TELL
from newllm.evaluation.needle import COLUMNS


def needles(**rights):
    """Two distances an arm: the right name is chosen as often as given, by a margin that is told from zero."""
    rows = [
        (arm, 1, distance, 0.5, 0.3, 0.7, right, right - 0.02, right + 0.02, 256)
        for arm, each in rights.items()
        for distance, right in zip((16, 64), each, strict=True)
    ]
    return pd.DataFrame(rows, columns=["arm", *COLUMNS])


def test_nothing_is_said_of_others_where_the_baseline_is_at_chance():
    (said,) = needle_findings(needles(pythia=(0.5, 0.51), mla=(0.9, 0.9)), "pythia")
    assert CANNOT_TELL in said
    assert "none of 2 settings" in said
    assert "mla" not in said
    (alone,) = needle_findings(needles(mla=(0.9, 0.9)), "pythia")
    assert CANNOT_TELL in alone
    assert needle_findings(needles(), "pythia") == ["No model was asked for a needle."]


def test_others_are_counted_where_the_baseline_finds_it():
    first, second = needle_findings(needles(pythia=(0.9, 0.51), mla=(0.9, 0.9)), "pythia")
    assert "in 1 of 2 settings (said once, 16 tokens before)" in first
    assert "`mla` finds it in 1 of these 1" in second


def truncation(**lost):
    rows = [
        (arm, context, value, value - 0.004, value + 0.004)
        for arm, values in lost.items()
        for context, value in zip((8, 16, 256), (*values, np.nan), strict=True)
    ]
    return pd.DataFrame(rows, columns=["arm", "context", "lost", "lost_low", "lost_high"])


@pytest.mark.parametrize(("values", "words"), [((0.1, 0.002), "its last 16 tokens"), ((0.1, 0.02), "none of these")])
def test_what_is_as_good_as_all_is_told_by_its_interval(values, words):
    (said,) = truncation_findings(truncation(pythia=values))
    assert words in said
    assert "8: +0.100 [+0.096, +0.104]" in said
    assert "256" not in said


def test_without_any_model_it_says_so():
    assert truncation_findings(truncation()) == ["No model was read with its context cut short."]
