"""Quality against memory as a picture: where points, names, ticks and the front go, for whoever draws it.

The byte axis is logarithmic. A model that keeps a state of fixed size leaves 0 bytes a token, which no such axis can
show: it stands at the left, beyond a break.
"""

import math
from dataclasses import dataclass, replace
from typing import Self

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray

from newllm.figures.arm_words import name_lines
from newllm.figures.name_places import MARKER, Numbers, place_names
from newllm.runs.pictures import PICTURE_WIDTH

CHARACTER_WIDTH = 6.6  # pixels, of the 11 px letters of the names in a wide font
LINE_HEIGHT = 15.0
BREAK = 0.45  # powers of ten between zero and the smallest number of bytes
LEADER = 6.0  # pixels between a point and its name from which a line joins them
MEBIBYTE = 2**20
# For how many names a picture has room, and by how many square pixels each one more makes it larger.
ROOMY, MORE_AREA = 14, 20_000
# Only among so many points some may be so far off that they hide what the others differ in, and most must remain.
MANY_POINTS, MOST = 8, 0.75
# Of what all points are apart, so much may half of an interval stretch the axis beyond them.
LONGEST_BAR = 3


@dataclass(frozen=True)
class Canvas:
    """Size of a picture in pixels, and the margins around the area between its axes."""

    width: int = 900
    height: int = 590
    left: int = 70
    right: int = 20
    top: int = 100
    bottom: int = 60

    @property
    def area(self) -> tuple[float, float]:
        """Width and height between the axes."""
        return self.width - self.left - self.right, self.height - self.top - self.bottom

    def with_room_for(self, names: int) -> Self:
        """Return a canvas as wide, and higher where there are many names."""
        return replace(self, height=self.height + MORE_AREA * max(0, names - ROOMY) // self.width)


# A page beside the bars of JupyterLab.
NARROW = Canvas(width=PICTURE_WIDTH)


@dataclass(frozen=True)
class Axis:
    """A range, and the ticks in it.

    Attributes
    ----------
    low, high
        Ends, in the axis' own measure: bits per byte, or powers of ten of bytes.
    ticks
        Place and text of each tick.
    zero
        Where no bytes are drawn; None where none are.
    """

    low: float
    high: float
    ticks: tuple[tuple[float, str], ...]
    zero: float | None = None

    def share(self, places: ArrayLike) -> Numbers:
        """Where places lie between the ends, 0 to 1."""
        return (np.asarray(places, dtype=np.float64) - self.low) / (self.high - self.low)


@dataclass(frozen=True)
class Layout:
    """Where everything goes.

    Attributes
    ----------
    canvas
        The picture's size.
    bytes_axis, bits_axis
        The axes.
    places
        Powers of ten of the bytes of each point (N,), and of zero where the axis shows it.
    bits
        Bits per byte at which each point is drawn (N,): those that are `far_above` the others stand at the upper end
        of the axis, with an arrow and their number below their name.
    beyond
        Which these are (N,).
    points
        Pixels (N, 2) from the upper left corner of the area.
    lines
        The lines of each name (N).
    sizes
        Pixels (N, 2): width and height of each name.
    names
        Pixels (N, 2) of the middle of each name.
    joints
        Pixels (N, 2) of the edge of each name where it is nearest to its point.
    joined
        Whether a line should lead from there to the point (N,).
    front
        Whether a row may lead and none of these is better on both (N,).
    """

    canvas: Canvas
    bytes_axis: Axis
    bits_axis: Axis
    places: Numbers
    bits: Numbers
    beyond: NDArray[np.bool_]
    points: Numbers
    lines: tuple[tuple[str, ...], ...]
    sizes: Numbers
    names: Numbers
    joints: Numbers
    joined: NDArray[np.bool_]
    front: NDArray[np.bool_]


def alike(summary: pd.DataFrame) -> NDArray[np.bool_]:
    """Tell which rows were trained like the others (N,): all of them where nothing is said.

    Parameters
    ----------
    summary
        Rows, with a column trained_otherwise or without.
    """
    otherwise = summary["trained_otherwise"] if "trained_otherwise" in summary else np.zeros(len(summary))
    return ~np.asarray(otherwise, dtype=np.bool_)


def may_lead(summary: pd.DataFrame) -> NDArray[np.bool_]:
    """Tell which rows may be on the front (N,): those that were trained alike and keep something of every token.

    What keeps a state of fixed size has no bytes a token to be compared by: its cost is that of the whole state.

    Parameters
    ----------
    summary
        Rows with kv_bytes_per_token, with a column trained_otherwise or without.
    """
    return alike(summary) & (summary["kv_bytes_per_token"].to_numpy(dtype=np.float64) > 0)


def on_front(
    bytes_per_token: ArrayLike, bits_per_byte: ArrayLike, counted: NDArray[np.bool_] | None = None
) -> NDArray[np.bool_]:
    """Tell which points no other one equals or beats in one measure and beats in the other.

    Parameters
    ----------
    bytes_per_token, bits_per_byte
        Two measures (N,), the lower the better.
    counted
        Which points take part (N,); all of them where omitted.
    """
    points = np.stack([np.asarray(bytes_per_token, dtype=np.float64), np.asarray(bits_per_byte, dtype=np.float64)])
    others, each = points[:, :, None], points[:, None, :]
    beaten = np.asarray((others <= each).all(0) & (others < each).any(0))
    takes_part = np.ones(points.shape[1], dtype=np.bool_) if counted is None else counted
    return np.asarray(takes_part & ~beaten[takes_part].any(0), dtype=np.bool_)


def bytes_axis(values: ArrayLike) -> Axis:
    """Make the logarithmic axis of bytes per token, with a place for zero where it is needed.

    Parameters
    ----------
    values
        Bytes per token (N,), at least 0.
    """
    numbers = np.asarray(values, dtype=np.float64)
    positive = numbers[numbers > 0]
    # Without any bytes but zero there is nothing to scale by.
    lowest, highest = (positive.min(), positive.max()) if positive.size else (1.0, 1.0)
    first, last = np.log10(lowest), np.log10(highest)
    room = max(0.08 * (last - first), 0.08)
    zero = first - BREAK if (numbers == 0).any() else None
    powers = np.arange(np.floor(np.log2(lowest)), np.ceil(np.log2(highest)) + 1)
    step = 1 if powers.size <= 9 else 2
    inside = [2.0**power for power in powers if power % step == 0]
    low = (first if zero is None else zero) - room
    if sum(lowest <= value <= highest for value in inside) < 2:
        # Between the points there is no power of two: their own bytes, which are few then, say where they are.
        inside = sorted(set(positive))
    ticks = [(float(np.log10(value)), _bytes(value)) for value in inside]
    shown = [
        (place, text) for place, text in ticks if (zero is None or place > zero + BREAK / 2) and place <= last + room
    ]
    if zero is not None:
        shown.insert(0, (float(zero), "0"))
    return Axis(float(low), float(last + room), tuple(shown), zero)


def _bytes(number: float) -> str:
    """Write bytes; many of them in mebibytes, as their digits would run into those of their neighbours."""
    return f"{number / MEBIBYTE:,.4g} MiB" if number >= MEBIBYTE else f"{number:,.0f}"


def bits_axis(values: ArrayLike, low_ends: ArrayLike, high_ends: ArrayLike) -> Axis:
    """Make the axis of bits per byte; an interval that is many times as long as all points are apart may leave it.

    Parameters
    ----------
    values, low_ends, high_ends
        Bits per byte and the ends of their intervals (N,); NaN where there is no interval.
    """
    numbers = np.asarray(values, dtype=np.float64)
    span = max(np.ptp(numbers), 0.02)
    low = max(np.nanmin(np.append(low_ends, numbers.min())), numbers.min() - LONGEST_BAR * span) - 0.06 * span
    high = min(np.nanmax(np.append(high_ends, numbers.max())), numbers.max() + LONGEST_BAR * span) + 0.06 * span
    rough = (high - low) / 6
    power = 10.0 ** np.floor(np.log10(rough))
    step = power * next(factor for factor in (1, 2, 5, 10) if factor * power >= rough)
    decimals = max(0, int(-np.floor(np.log10(step))))
    values_of_ticks = np.arange(np.ceil(low / step), np.floor(high / step) + 1) * step
    return Axis(float(low), float(high), tuple((float(tick), f"{tick:.{decimals}f}") for tick in values_of_ticks))


def far_above(values: ArrayLike) -> NDArray[np.bool_]:
    """Tell which of many points are so much worse than the others that they would flatten what these differ in (N,).

    Those are all points above a gap of more than half of what all below it are apart, and no more than a quarter.

    Parameters
    ----------
    values
        Bits per byte (N,).
    """
    numbers = np.asarray(values, dtype=np.float64)
    ordered = np.sort(numbers)
    for count in range(max(MANY_POINTS, math.ceil(MOST * len(ordered))), len(ordered)):
        highest = ordered[count - 1]
        if ordered[count] - highest > (highest - ordered[0]) / 2:
            return np.asarray(numbers > highest)
    return np.zeros(len(numbers), dtype=np.bool_)


def lay_out(summary: pd.DataFrame, canvas: Canvas | None = None) -> Layout:
    """Decide where everything goes.

    Parameters
    ----------
    summary
        Columns arm, kv_bytes_per_token, bits_per_byte, and the ends of its interval, bits_per_byte_low and
        bits_per_byte_high (NaN where seeds tell none).
        The front is of those that `may_lead`.
    canvas
        The picture's size, which many names make higher; the usual one where omitted.
    """
    canvas = (canvas or Canvas()).with_room_for(len(summary))
    width, height = canvas.area
    kept, bits = (summary[name].to_numpy(dtype=np.float64) for name in ("kv_bytes_per_token", "bits_per_byte"))
    low, high = (summary[name].to_numpy(dtype=np.float64) for name in ("bits_per_byte_low", "bits_per_byte_high"))
    beyond = far_above(bits)
    across, up = bytes_axis(kept), bits_axis(bits[~beyond], low[~beyond], high[~beyond])
    if len(summary) > ROOMY:
        # The best ones keep little and lie side by side at the lower end: room for their names below them.
        up = replace(up, low=up.low - 0.06 * (up.high - up.low))
    if beyond.any():
        up = replace(up, high=up.high + 0.06 * (up.high - up.low))
    drawn = np.where(beyond, up.high - 0.03 * (up.high - up.low), bits)
    with np.errstate(divide="ignore"):
        places = np.where(kept > 0, np.log10(kept), np.nan if across.zero is None else across.zero)
    points = np.stack([across.share(places) * width, (1 - up.share(drawn)) * height], axis=1)
    high_bits, low_bits = ((1 - up.share(np.where(np.isnan(end) | beyond, drawn, end))) * height for end in (high, low))
    lines = tuple(
        name_lines(str(arm)) + (f"\N{UPWARDS ARROW} {value:.3f}",) * bool(is_beyond)
        for arm, value, is_beyond in zip(summary["arm"], bits, beyond, strict=True)
    )
    sizes = np.array([[CHARACTER_WIDTH * max(map(len, name)) + 4, LINE_HEIGHT * len(name)] for name in lines])
    front = on_front(kept, bits, may_lead(summary))
    names = place_names(
        points, sizes, np.concatenate([_bars(points, low_bits, high_bits), _steps(points[front])]), (width, height)
    )
    joints = np.clip(points, names - sizes / 2, names + sizes / 2)
    return Layout(
        canvas=canvas,
        bytes_axis=across,
        bits_axis=up,
        places=places,
        bits=drawn,
        beyond=beyond,
        points=points,
        lines=lines,
        sizes=sizes,
        names=names,
        joints=joints,
        joined=np.hypot(*(joints - points).T) > LEADER + MARKER / 2,
        front=front,
    )


def _bars(points: Numbers, low: Numbers, high: Numbers) -> Numbers:
    """Return both ends of each interval (N, 2, 2)."""
    return np.stack([np.stack([points[:, 0], end], axis=1) for end in (low, high)], axis=1)


def front_corners(front: Numbers) -> Numbers:
    """Return the corners of the line along the front: from each point level to the next, then down to it.

    Parameters
    ----------
    front
        The points on it (F, 2), in pixels.
    """
    if not len(front):
        return front
    ordered = front[np.argsort(front[:, 0], kind="stable")]
    corners = np.stack([ordered[1:, 0], ordered[:-1, 1]], axis=1)
    return np.concatenate([ordered[:1], np.stack([corners, ordered[1:]], axis=1).reshape(-1, 2)])


def _steps(front: Numbers) -> Numbers:
    """Return the lines along the front (M, 2, 2)."""
    corners = front_corners(front)
    return np.stack([corners[:-1], corners[1:]], axis=1)
