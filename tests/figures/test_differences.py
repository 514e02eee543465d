"""Differences from a baseline: a point with its interval, the best on top, and none that flattens the others."""

import numpy as np
import pandas as pd

from newllm import figures
from newllm.evaluation.verdicts import BETTER, EQUIVALENT, OPEN, TOO_FEW_SEEDS, WORSE
from newllm.figures import style
from newllm.figures.differences import VERDICT_LOOKS


def summary(**differences):
    rows = [("pythia", np.nan), *differences.items()]
    table = pd.DataFrame(rows, columns=["arm", "difference"])
    ends = {"difference_low": table.difference - 0.01, "difference_high": table.difference + 0.02}
    return table.assign(seeds=2, kv_bytes_per_token=512.0, verdict="worse", **ends)


def test_the_best_stands_on_top_and_each_point_has_its_interval():
    figure = figures.arm_differences(summary(mla=0.1, mqa=-0.2), "pythia")
    [points] = figure.data
    assert list(figure.layout.yaxis.categoryarray) == ["mqa", "mla"]
    assert dict(zip(points.y, points.x, strict=True)) == {"mqa": -0.2, "mla": 0.1}
    np.testing.assert_allclose(points.error_x.array, 0.02)
    np.testing.assert_allclose(points.error_x.arrayminus, 0.01)


def test_verdicts_have_colours_and_counts_are_left_out():
    rows = summary(mla=0.1, mqa=-0.2, counts=0.9)
    rows.loc[rows.arm == "mqa", "verdict"] = "better"
    rows.loc[rows.arm == "counts", "kv_bytes_per_token"] = np.nan
    drawn = {points.name: points for points in figures.arm_differences(rows, "pythia").data}
    assert {name: list(points.y) for name, points in drawn.items()} == {"better": ["mqa"], "worse": ["mla"]}
    assert drawn["better"].marker.color != drawn["worse"].marker.color


def test_every_verdict_has_a_look_of_its_own_and_the_colours_are_those_of_tables():
    assert set(VERDICT_LOOKS) == {BETTER, EQUIVALENT, OPEN, TOO_FEW_SEEDS, WORSE}
    assert len(set(VERDICT_LOOKS.values())) == len({symbol for _, symbol in VERDICT_LOOKS.values()}) == 5
    rows = summary(mla=-0.2, mqa=-0.1, ka=0.1).iloc[1:].assign(verdict=["better", "cannot be told", "worse"])
    of_arms = figures.arm_differences(rows, "pythia").data
    studies = rows.rename(columns={"arm": "change"})
    for drawn in (of_arms, figures.differences(studies, "the base").data):
        looks = {points.name: points.marker.color for points in drawn}
        assert list(looks) == ["better", "cannot be told", "worse"]
        assert (looks["better"], looks["worse"]) == (style.BETTER, style.WORSE)
        assert looks["cannot be told"] not in (style.BETTER, style.WORSE)


def test_what_is_far_off_is_a_number_at_the_edge():
    rows = summary(**{f"arm{place}": place / 100 for place in range(9)}, far=3.0)
    figure = figures.arm_differences(rows, "pythia")
    assert max(figure.data[0].x) < 0.1
    assert [(note.y, note.text[:6]) for note in figure.layout.annotations] == [("far", "+3.000")]
    assert "far" in figure.layout.yaxis.categoryarray


def test_the_axis_says_what_the_intervals_are_over():
    rows = summary(mla=0.1)
    assert "seeds and documents" in figures.arm_differences(rows, "pythia").layout.xaxis.title.text
    assert "documents alone" in figures.arm_differences(rows.assign(seeds=1), "pythia").layout.xaxis.title.text


def test_without_a_difference_the_picture_says_why():
    assert "baseline" in figures.arm_differences(summary(mla=0.1), None).layout.annotations[0].text
    assert "pythia" in figures.arm_differences(summary(), "pythia").layout.annotations[0].text
