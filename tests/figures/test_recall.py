import pandas as pd
import pytest

from newllm import figures


def passages(*distances):
    rows = [("a", seed, distance, 0.2 + seed) for seed in (0, 1) for distance in distances]
    return pd.DataFrame(rows, columns=["arm", "seed", "distance", "gain"])


def test_gains_are_lines_over_distances_and_a_bar_for_one_distance():
    several, one = figures.passage_gains(passages(32, 64)), figures.passage_gains(passages(64), text="code")
    assert "passage of code" in one.layout.title.text and "of code" not in several.layout.title.text
    assert list(several.data[0].x) == [32, 64]
    assert list(several.data[0].y) == pytest.approx([0.7, 0.7])
    assert one.data[0].type == "bar"
    assert list(one.data[0].x) == pytest.approx([0.7])


def differences(**of_arms):
    """One row an arm and kind: pairs seen before are as far off as given, other tokens half of that."""
    rows = [(arm, kind, share * far) for arm, far in of_arms.items() for kind, share in (("seen", 1), ("others", 0.5))]
    table = pd.DataFrame(rows, columns=["arm", "kind", "difference"])
    return table.assign(difference_low=table.difference - 0.1, difference_high=table.difference + 0.1)


def test_each_kind_of_token_is_a_point_with_its_interval_beside_the_baseline():
    figure = figures.recall_differences(differences(a=0.2, b=-0.4), "pythia")
    drawn = {trace.name: trace for trace in figure.data}
    assert list(drawn["seen"].x) == [0.2, -0.4]
    assert list(drawn["others"].x) == [0.1, -0.2]
    assert list(drawn["seen"].error_x.array) == pytest.approx([0.1, 0.1])
    assert "pythia" in figure.layout.xaxis.title.text


def test_an_arm_far_above_all_others_does_not_flatten_them():
    near = {f"arm{place}": place / 100 for place in range(9)}
    figure = figures.recall_differences(differences(**near, far=5.0), "pythia")
    assert max(max(trace.x) for trace in figure.data) < 1
    assert [note.y for note in figure.layout.annotations] == ["far"]
    assert "+5.00, +2.50" in figure.layout.annotations[0].text


def test_without_a_baseline_the_picture_says_so():
    nothing = differences()
    assert not figures.recall_differences(nothing, None).data
    assert "pythia" in figures.recall_differences(nothing, "pythia").layout.annotations[0].text


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


def test_what_is_lost_by_truncation_is_a_line_an_arm_without_the_whole_window():
    table = pd.DataFrame({"arm": ["a"] * 3, "context": [8, 16, 256], "lost": [0.2, 0.1, None]})
    (line,) = figures.lost_by_truncation(table.assign(lost_low=table.lost - 0.1, lost_high=table.lost + 0.1)).data
    assert list(line.x) == [8, 16]
    assert list(line.error_y.array) == pytest.approx([0.1, 0.1])
    nothing = figures.lost_by_truncation(table[2:])
    assert not nothing.data and "weights" in nothing.layout.annotations[0].text
