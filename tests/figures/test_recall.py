import pandas as pd
import pytest

from newllm import figures

LOSSES = [(arm, seed, kind) for arm in ("a", "b") for seed in (0, 1) for kind in ("hits", "others")]
TOKENS = pd.DataFrame(LOSSES, columns=["arm", "seed", "kind"])
TOKENS["loss"] = TOKENS["seed"] + TOKENS["kind"].map({"hits": 1.0, "others": 3.0})


def passages(*distances):
    rows = [("a", seed, distance, 0.2 + seed) for seed in (0, 1) for distance in distances]
    return pd.DataFrame(rows, columns=["arm", "seed", "distance", "gain"])


def test_gains_are_lines_over_distances_and_a_bar_for_one_distance():
    several, one = figures.passage_gains(passages(32, 64)), figures.passage_gains(passages(64))
    assert list(several.data[0].x) == [32, 64]
    assert list(several.data[0].y) == pytest.approx([0.7, 0.7])
    assert one.data[0].type == "bar"
    assert list(one.data[0].x) == pytest.approx([0.7])


def test_each_kind_of_token_is_a_bar_of_its_mean_loss_from_zero():
    drawn = {trace.name: trace for trace in figures.recallable_tokens(TOKENS).data}
    assert list(drawn["pair seen before"].x) == [1.5, 1.5]
    assert list(drawn["all other tokens"].x) == [3.5, 3.5]


@pytest.mark.parametrize("draw", [figures.passage_gains, figures.places_in_period])
def test_a_picture_without_anything_says_why(draw):
    figure = draw(pd.DataFrame(columns=["arm", "seed"]))
    assert not figure.data
    assert figure.layout.annotations[0].text


def test_losses_by_place_are_means_over_seeds():
    places = pd.DataFrame({"arm": "a", "seed": [0, 0, 1, 1], "place": [0, 1, 0, 1], "loss": [1.0, 2.0, 3.0, 4.0]})
    (line,) = figures.places_in_period(places.assign(half=0.5)).data
    assert list(line.y) == [2.0, 3.0]
    assert list(line.error_y.array) == [0.5, 0.5]
