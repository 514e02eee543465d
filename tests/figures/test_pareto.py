"""Names of points: near them, in the picture, and never over one another."""

import itertools

import numpy as np
import pandas as pd
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from newllm.figures.arm_words import arm_in_words
from newllm.figures.pareto import NARROW, Canvas, bits_axis, bytes_axis, lay_out, on_front

NAMES = (
    "pythia",
    "mla",
    "narrow@hidden_size=208,intermediate_size=832",
    "dproj-oacd-frozen-embedding",
    "unified@alibi_slopes_by_head=true,position=alibi",
    "cascade-oacd",
)
# As crowded as results are: several arms keep the same bytes, and differ little.
BYTES = (0.0, 3.36, 512.0, 5120.0, 5120.0, 8192.0, 8192.0)


def summary(points) -> pd.DataFrame:
    rows = [
        {
            "arm": NAMES[index % len(NAMES)],
            "kv_bytes_per_token": kept,
            "bits_per_byte": bits,
            "bits_per_byte_low": bits - 0.01 if index % 2 else np.nan,
            "bits_per_byte_high": bits + 0.01 if index % 2 else np.nan,
        }
        for index, (kept, bits) in enumerate(points)
    ]
    return pd.DataFrame(rows)


def boxes(frame, layout):
    # Letters of 11 px, 14 px from line to line.
    sizes = np.array([[6.6 * max(map(len, name)), 14.0 * len(name)] for name in layout.lines])
    written = [" ".join(line for line in name if "\N{UPWARDS ARROW}" not in line) for name in layout.lines]
    assert written == list(map(arm_in_words, frame["arm"]))
    return layout.names - sizes / 2, layout.names + sizes / 2


points = st.lists(
    st.tuples(st.sampled_from(BYTES), st.floats(1.85, 2.35)), min_size=1, max_size=18, unique_by=lambda point: point
)


@settings(max_examples=15, deadline=None)
@given(points)
@example(
    [(0.0, bits) for bits in (2.0, 2.125, 2.1875, 2.15625, 2.203125, 2.171875, 1.875)] + [(3.36, 2.0), (512.0, 2.0)]
)
def test_names_never_lie_over_one_another_and_stay_inside(points):
    frame = summary(points)
    layout = lay_out(frame)
    low, high = boxes(frame, layout)
    assert (low >= -1).all()
    assert (high <= np.array(layout.canvas.area) + 1).all()
    common = np.minimum(high[:, None], high) - np.maximum(low[:, None], low)
    overlapping = (common > 0).all(2) & ~np.eye(len(frame), dtype=bool)
    assert not overlapping.any()


@settings(max_examples=15, deadline=None)
@given(points, st.integers(NARROW.width, 1400))
def test_names_placed_for_a_narrow_page_stay_inside_a_wider_one(points, width):
    """There a figure has its points further apart, and each name as far from its point as before."""
    frame = summary(points)
    narrow, wide = lay_out(frame, NARROW), lay_out(frame, Canvas(width=width))
    names = wide.points + narrow.names - narrow.points
    low, high = boxes(frame, narrow)
    half = (high - low) / 2
    assert (names - half >= -1).all()
    assert (names + half <= np.array(wide.canvas.area) + 1).all()


@settings(max_examples=15, deadline=None)
@given(points)
def test_points_are_in_the_picture_in_their_order(points):
    frame = summary(points)
    layout = lay_out(frame)
    assert (layout.points >= 0).all()
    assert (layout.points <= np.array(layout.canvas.area)).all()
    kept, bits = frame["kv_bytes_per_token"].to_numpy(), frame["bits_per_byte"].to_numpy()
    more, worse = kept[:, None] > kept, bits[:, None] > bits
    across, down = layout.points.T
    assert (across[:, None] > across)[more].all()
    # Those beyond the upper end of the axis stand side by side.
    told_apart = worse & ~(layout.beyond[:, None] & layout.beyond)
    assert (down[:, None] < down)[told_apart].all()


# Several arms of the same bytes whose names are wide, and a front that leads past them.
CROWDED = pd.DataFrame(
    [
        ("mqa@alibi_slopes_by_head=true,num_attention_heads=8,position=alibi", 1024.0, 1.2976),
        ("mla@alibi_slopes_by_head=true,num_attention_heads=8", 1024.0, 1.3022),
        ("context-oacd@alibi_slopes_by_head=true,num_attention_heads=8,position=alibi", 512.0, 1.3042),
        ("mqa@alibi_slopes_by_head=true,num_attention_heads=16,position=alibi", 512.0, 1.3043),
        ("unified@alibi_slopes_by_head=true,num_attention_heads=8,position=alibi", 8192.0, 1.2961),
        ("mla@alibi_slopes_by_head=true", 1024.0, 1.3142),
        ("mqa@num_attention_heads=8", 1024.0, 1.318),
        ("mqa", 2048.0, 1.313),
        ("mla", 1024.0, 1.3544),
        ("pythia", 8192.0, 1.3141),
        ("ka", 8192.0, 1.3756),
    ],
    columns=["arm", "kv_bytes_per_token", "bits_per_byte"],
).assign(
    bits_per_byte_low=lambda frame: frame["bits_per_byte"] - 0.002,
    bits_per_byte_high=lambda frame: frame["bits_per_byte"] + 0.002,
)


@pytest.mark.parametrize("width", range(560, 960, 40))
def test_names_beside_near_points_of_the_same_bytes_have_their_order(width):
    layout = lay_out(CROWDED, Canvas(width=width, height=800))
    for one, other in itertools.combinations(range(len(CROWDED)), 2):
        apart, names_apart = layout.points[one] - layout.points[other], layout.names[one] - layout.names[other]
        if apart[0] == 0 and 10 < abs(apart[1]) < 80 and abs(names_apart[0]) < 80:
            assert apart[1] * names_apart[1] > 0, (CROWDED["arm"][one], CROWDED["arm"][other])


@given(points)
def test_the_front_is_what_nothing_beats(points):
    front = on_front(*zip(*points, strict=True))
    for index, (kept, bits) in enumerate(points):
        beaten = any(a <= kept and b <= bits and (a, b) != (kept, bits) for a, b in points)
        assert front[index] == (not beaten)


@pytest.mark.parametrize("values", [[8192.0], [0.0], [0.0, 8192.0], [3.36, 8192.0], [512.0, 1024.0]])
def test_the_axis_of_bytes_has_ticks_and_holds_every_value(values):
    axis = bytes_axis(values)
    assert (axis.zero is not None) == (0.0 in values)
    assert all(axis.low < place < axis.high for place, _ in axis.ticks)
    texts = [text for _, text in axis.ticks]
    assert len(set(texts)) == len(texts) >= 1
    assert ("0" in texts) == (0.0 in values)


def test_bytes_between_which_no_power_of_two_lies_are_ticks_themselves():
    axis = bytes_axis([5120.0, 6656.0, 6656.0, 8192.0])
    assert [text for _, text in axis.ticks] == ["5,120", "6,656", "8,192"]


def test_a_wide_interval_does_not_flatten_the_others():
    axis = bits_axis([1.9, 2.0], [1.0, np.nan], [2.8, np.nan])
    assert axis.high - axis.low < 0.8
    assert axis.low < 1.9 < 2.0 < axis.high


def test_intervals_as_long_as_points_are_apart_end_within_the_picture():
    axis = bits_axis([3.59, 3.61], [3.56, 3.58], [3.62, 3.64])
    assert axis.low < 3.56 and axis.high > 3.64


def test_several_points_above_a_gap_stand_at_the_edge_and_most_remain():
    near, far = [(512.0 * k, 1.9 + k / 100) for k in range(1, 13)], [(0.0, 2.3), (0.0, 2.35), (0.0, 2.36)]
    assert list(lay_out(summary(near + far)).beyond) == [False] * 12 + [True] * 3
    assert not lay_out(summary(near + far * 2)).beyond.any()


def test_what_keeps_a_state_of_one_size_is_no_part_of_the_front():
    layout = lay_out(summary([(0.0, 1.7), (512.0, 2.0), (8192.0, 1.9)]))
    assert list(layout.front) == [False, True, True]


def test_a_larger_canvas_leaves_the_order_alone():
    frame = summary([(512.0, 2.0), (8192.0, 1.9), (0.0, 2.3)])
    small, large = lay_out(frame), lay_out(frame, Canvas(width=1400, height=900))
    assert np.allclose(small.points / np.array(small.canvas.area), large.points / np.array(large.canvas.area))


def test_many_names_make_a_picture_higher():
    heights = [lay_out(summary([(512.0 * k, 1.9 + k / 100) for k in range(1, n)])).canvas.height for n in (5, 20, 30)]
    assert heights[0] == Canvas().height < heights[1] < heights[2]


def test_a_point_far_above_many_others_stands_at_the_edge_and_says_where_it_is():
    frame = summary([(512.0 * k, 1.9 + k / 100) for k in range(1, 10)] + [(8192.0, 2.9)])
    layout = lay_out(frame)
    assert list(layout.beyond) == [False] * 9 + [True]
    assert layout.lines[-1][-1].endswith("2.900")
    assert layout.bits[-1] < layout.bits_axis.high < 2.1
    assert layout.points[-1, 1] < layout.points[:-1, 1].min()
    np.testing.assert_array_equal(layout.bits[:-1], frame["bits_per_byte"][:-1])
    # Of few, each is part of the picture.
    assert not lay_out(frame.tail(5)).beyond.any()
