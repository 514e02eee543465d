"""Where the names of points go: near them, over nothing else, and in their order."""

import itertools
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

MARKER = 12.0  # pixels, the width of a point
NEAR = 80.0  # pixels within which the names of two points should have the order of the points
ROUNDS = 30  # in which every name may move

Numbers = NDArray[np.float64]


def place_names(points: Numbers, sizes: Numbers, lines: Numbers, area: tuple[float, float]) -> Numbers:
    """Put a name near each point so that names cover neither one another nor points, if possible no line either.

    Every name tries many places around its point, while the others stay where they are, until none finds a better one,
    `ROUNDS` times at most; then those of near points that have not the order of the points try one another's places.

    Parameters
    ----------
    points
        Pixels (N, 2).
    sizes
        Width and height of each name (N, 2).
    lines
        Both ends of each line, level or upright (M, 2, 2), in pixels: intervals, and the steps of the front.
    area
        Width and height that names have to stay in.

    Returns
    -------
    numpy.ndarray
        The middle of each name (N, 2).
    """
    count = len(points)
    candidates = [_candidates(point, size, area) for point, size in zip(points, sizes, strict=True)]
    places = np.array([options[0] for options, _ in candidates]) if count else np.zeros((0, 2))
    markers = points, np.full((count, 2), MARKER / 2 + 1)
    strokes = lines.mean(1), np.abs(lines[:, 1] - lines[:, 0]) / 2 + 1

    def costs(index: int) -> Numbers:
        """Say how bad each place for a name is, while the others stay where they are."""
        options, distances = candidates[index]
        others = np.arange(count) != index
        cost = distances + 40 * _overlap(options, sizes[index] / 2, places[others], sizes[others] / 2)
        cost += 6 * _overlap(options, sizes[index] / 2, *markers) + _overlap(options, sizes[index] / 2, *strokes)
        cost += 30 * _inversions(options, points[index], places[others], points[others])
        joints = np.clip(points[index], options - sizes[index] / 2, options + sizes[index] / 2)
        for middles, halves in ((places[others], sizes[others] / 2), (points[others], markers[1][others])):
            cost += 100 * _crossings(joints, points[index], middles, halves)
        return cost

    def settle(indices: Sequence[int]) -> float:
        """Give names their best places, one after the other, and return what those cost together."""
        together = 0.0
        for index in indices:
            found = costs(index)
            places[index] = candidates[index][0][int(found.argmin())]
            together += float(found.min())
        return together

    for _ in range(ROUNDS):
        before = places.copy()
        settle(range(count))
        if (places == before).all():
            break
    # Two names that stand in one another's way may have to move at once.
    for one, other in itertools.combinations(range(count), 2):
        apart, names_apart = points[one] - points[other], places[one] - places[other]
        if (np.abs(apart) > NEAR).any() or apart[1] * names_apart[1] >= 0:
            continue
        before, cost = places.copy(), settle([one, other])
        places[other] = _nearest(candidates[other][0], places[one])
        if settle([one, other]) >= cost:
            places[:] = before
    return places


def _nearest(options: Numbers, place: Numbers) -> Numbers:
    """Return that of several places (C, 2) which is nearest to another one."""
    nearest: Numbers = options[int(np.hypot(*(options - place).T).argmin())]
    return nearest


def _candidates(point: Numbers, size: Numbers, area: tuple[float, float]) -> tuple[Numbers, Numbers]:
    """Places around a point within the area, and how far each is: right first, then left, above and below."""
    half_width = size[0] / 2
    heights = np.arange(-160, 161, 8)
    beside = [(side * (gap + half_width), dy) for gap in (9, 24, 48, 80) for side in (1, -1) for dy in heights]
    above = [(dx, dy) for dy in heights if abs(dy) >= 16 for dx in (-half_width / 2, 0, half_width / 2)]
    offsets = np.array(beside + above)
    places = point + offsets
    inside = (np.abs(places - np.array(area) / 2) <= (np.array(area) - size) / 2).all(1)
    gaps = np.maximum(np.abs(offsets) - np.array([half_width, 0]), 0)
    distances = np.hypot(*gaps.T) + 3 * (offsets[:, 0] < 0)
    if not inside.any():  # a name wider than the area goes where it goes
        inside[:] = True
    order = np.argsort(distances[inside], kind="stable")
    return places[inside][order], distances[inside][order]


def _overlap(places: Numbers, half: Numbers, others: Numbers, other_halves: Numbers) -> Numbers:
    """Pixels of overlap, as a length, of a rectangle at each place (C, 2) with all the others (M, 2)."""
    common = half + other_halves - np.abs(places[:, None] - others)
    area: Numbers = np.sqrt(np.prod(np.maximum(common, 0), axis=2)).sum(1)
    return area


def _inversions(places: Numbers, point: Numbers, others: Numbers, other_points: Numbers) -> Numbers:
    """Count for each place of a name (C, 2) the near points whose names (M, 2) would be beside it in the wrong order.

    Two names beside points that are close are told apart by their order alone. Names that are more than `NEAR` apart
    across do not count, nor do points of one height.
    """
    apart = other_points - point
    near = (np.abs(apart) <= NEAR).all(1) & (apart[:, 1] != 0)
    beside = np.abs(others[:, 0] - places[:, None, 0]) <= NEAR
    swapped = (others[:, 1] - places[:, None, 1]) * apart[:, 1] < 0
    count: Numbers = (near & beside & swapped).sum(1).astype(np.float64)
    return count


def _crossings(joints: Numbers, point: Numbers, others: Numbers, other_halves: Numbers) -> Numbers:
    """How much of the line from each joint (C, 2) to the point runs through other boxes (M, 2), 0 to 1 for each."""
    along = np.linspace(0, 1, 9)[None, :, None]
    line = point + along * (joints - point)[:, None]
    covered = (np.abs(line[:, :, None] - others) <= other_halves).all(3)
    share: Numbers = covered.mean(1).sum(1)
    return share
