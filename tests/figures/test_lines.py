"""Lines of many arms: a few in colour, all others in grey under one entry of the legend, and a legend that fits."""

import pandas as pd
import pytest

from newllm import figures
from newllm.figures.lines import MOST_TOLD, OTHERS, lines
from newllm.figures.style import HEIGHT, LEGEND_ROW, finish

ARMS = [f"arm{place}" for place in range(12)]
TOLD = ["arm3", "arm0", "arm11"]
POSITIONS = pd.DataFrame([(arm, 0, start, start + 8, 9.0) for arm in ARMS for start in (0, 8)])
POSITIONS.columns = ["arm", "seed", "start", "end", "perplexity"]
LEARNED = pd.DataFrame([(arm, 0, epoch, 2.0, 3.0) for arm in ARMS for epoch in (1, 2)])
LEARNED.columns = ["arm", "seed", "epoch", "train_loss", "validation_loss"]
PASSAGES = pd.DataFrame([(arm, 0, distance, 0.1) for arm in ARMS for distance in (32, 64)])
PASSAGES.columns = ["arm", "seed", "distance", "gain"]
PICTURES = [
    pytest.param(figures.position_perplexity, POSITIONS, id="positions"),
    pytest.param(figures.training_curves, LEARNED, id="training"),
    pytest.param(figures.passage_gains, PASSAGES, id="passages"),
]


@pytest.mark.parametrize(("draw", "frame"), PICTURES)
def test_of_many_arms_those_that_are_told_have_colours_and_the_others_one_entry(draw, frame):
    drawn = draw(frame, TOLD).data
    in_legend = [line.name for line in drawn if line.showlegend is not False]
    assert in_legend == [OTHERS, *TOLD]
    others = [line for line in drawn if line.name == OTHERS]
    assert len(others) == len(ARMS) - len(TOLD)
    assert len({line.line.color for line in others}) == 1
    # A hand on a grey line reads whose it is.
    assert {arm for arm in ARMS if any(f">{arm}<" in line.hovertemplate for line in others)} == set(ARMS) - set(TOLD)
    assert all(line.legendrank > 1000 for line in others)


@pytest.mark.parametrize(("draw", "frame"), PICTURES)
def test_few_arms_all_have_colours(draw, frame):
    few = frame[frame.arm.isin(ARMS[:8])]
    assert OTHERS not in {line.name for line in draw(few, TOLD).data}
    assert OTHERS not in {line.name for line in draw(frame).data}


def test_many_arms_of_which_none_is_told_are_not_all_grey():
    rest = POSITIONS[~POSITIONS.arm.isin(TOLD)]
    assert len({line.name for line in figures.position_perplexity(rest, TOLD).data}) == len(ARMS) - len(TOLD)


def test_a_picture_is_higher_by_the_rows_of_its_legend():
    """A legend higher than half of a picture would be cut."""
    frame = pd.DataFrame([(f"an arm of a long name {place}", x, x) for place in range(MOST_TOLD) for x in (0, 1)])
    frame.columns = ["arm", "x", "y"]
    few = finish(lines(frame[:4], "x", "y", "arm"), "Two", "x", "y")
    many = finish(lines(frame, "x", "y", "arm"), "Seven", "x", "y")
    assert few.layout.height == HEIGHT
    assert many.layout.height == HEIGHT + 2 * LEGEND_ROW  # four rows of two names
