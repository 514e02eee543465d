"""Differences between arms on the same test windows: one interval over seeds and documents together, and a verdict."""

import json
import logging
import math
from collections.abc import Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from newllm.evaluation.comparison_statistics import (
    NO_SEED_VARIANCE,
    Difference,
    SeedVariance,
    holm,
    seed_variance,
    two_way_difference,
)
from newllm.experiments.scoring import EVALUATION_FILE

logger = logging.getLogger(__name__)

# In nats a token: within it two arms count as equally good, where the data can tell.
EQUIVALENCE_MARGIN = 0.01
SIGNIFICANCE = 0.05
# With fewer degrees of freedom an interval holds the truth less often than it says, whatever the formula.
LEAST_SEED_FREEDOM = 2

BETTER = "better"
WORSE = "worse"
EQUIVALENT = f"no difference within {EQUIVALENCE_MARGIN:g} nats"
OPEN = "cannot be told"
OTHER_BUDGET = "another budget"

DIFFERENCE_COLUMNS = ("difference", "difference_low", "difference_high", "difference_p", "verdict")


@dataclass(frozen=True)
class ArmLosses:
    """What an arm lost on the test windows.

    Attributes
    ----------
    by_seed
        Mean loss of each window (N,), nats per token, by seed; without seeds there is one, and it stands for each.
    groups
        Number of the document group of each window (N,).
    has_seeds
        Whether another seed would give other losses; counts have none.
    """

    by_seed: Mapping[int, NDArray[np.float64]]
    groups: NDArray[np.int64]
    has_seeds: bool = True

    def means(self) -> list[float]:
        """Mean loss of each seed."""
        return [float(losses.mean()) for losses in self.by_seed.values()]


def read_losses(records: pd.DataFrame) -> ArmLosses | None:
    """Read the losses of the seeds of one arm; None, with a warning where files are damaged, where there are none.

    Parameters
    ----------
    records
        Rows of `newllm.experiments.comparison.compare`, of one arm.
    """
    by_seed: dict[int, NDArray[np.float64]] = {}
    groups: NDArray[np.int64] | None = None
    for _, record in records.iterrows():
        found = _read(Path(record["folder"]) / EVALUATION_FILE)
        if found is None or (groups is not None and not np.array_equal(groups, found[1])):
            continue
        by_seed[int(record["seed"])], groups = found
    return None if groups is None else ArmLosses(by_seed, groups)


def _read(path: Path) -> tuple[NDArray[np.float64], NDArray[np.int64]] | None:
    """Read the losses (N,) and document groups (N,) of the test windows of a trial."""
    try:
        stored = json.loads(path.read_bytes())
        losses = np.asarray(stored["window_losses"], dtype=np.float64)
        groups = np.asarray(stored["window_groups"], dtype=np.int64)
    except FileNotFoundError:
        return None
    except (OSError, ValueError, TypeError, KeyError) as error:
        logger.warning("%s holds no losses of windows (%r): no difference is taken of it.", path, error)
        return None
    is_whole = losses.ndim == 1 and losses.shape == groups.shape and losses.size and np.isfinite(losses).all()
    return (losses, groups) if is_whole else None


def compare_pairs(
    losses: Mapping[Hashable, ArmLosses | None],
    pairs: Sequence[tuple[Hashable, Hashable]],
    *,
    have_same_weights: bool = False,
) -> list[dict[str, Any]]:
    """Compare arms in pairs that were named together.

    Parameters
    ----------
    losses
        Of each arm of the comparison, by its name; None where they are not known.
    pairs
        The names of an arm and of what it is compared with.
    have_same_weights
        Whether the two of a pair are the same trained weights, read in two ways: then a seed is good or bad for both.

    Returns
    -------
    list of dict
        For each pair `DIFFERENCE_COLUMNS`: the difference in nats per token (negative: the first is better) with its
        95 % interval over seeds and document groups together, by `two_way_difference`, with the variance of seeds that
        all these arms have in common; its p-value, adjusted for the number of pairs (Holm); and the verdict. An empty
        dict where no windows are shared.
    """
    pooled = pooled_variance(losses.values())
    between_arms = NO_SEED_VARIANCE if have_same_weights else pooled
    found = {
        number: difference
        for number, (ours, theirs) in enumerate(pairs)
        if (difference := _difference(losses.get(ours), losses.get(theirs), between_arms)) is not None
    }
    adjusted = holm({str(number): difference.p_value for number, difference in found.items()})
    return [
        {
            **found[number].interval.columns("difference"),
            "difference_p": adjusted[str(number)],
            "verdict": verdict(found[number], adjusted[str(number)]) if knows_seeds(losses.values()) else OPEN,
        }
        if number in found
        else {}
        for number in range(len(pairs))
    ]


def knows_seeds(losses: Iterable[ArmLosses | None]) -> bool:
    """Tell whether arms have seeds enough to say what another one would find: two have two of them, or one has three.

    Parameters
    ----------
    losses
        Of each arm of a comparison.
    """
    return pooled_variance(losses).freedom >= LEAST_SEED_FREEDOM


def pooled_variance(losses: Iterable[ArmLosses | None]) -> SeedVariance:
    """Pool over the arms that have seeds how much a seed changes their loss.

    Parameters
    ----------
    losses
        As for `knows_seeds`.
    """
    return seed_variance([arm.means() for arm in losses if arm is not None and arm.has_seeds])


def verdict(difference: Difference, adjusted_p: float) -> str:
    """Say what a difference means: equivalence first, as a difference may be sure and too small to matter.

    Parameters
    ----------
    difference
        Of the loss of an arm from that of another one, nats per token.
    adjusted_p
        Its p-value among those it was named with.
    """
    if difference.is_equivalent(EQUIVALENCE_MARGIN):
        return EQUIVALENT
    if adjusted_p < SIGNIFICANCE:
        return BETTER if difference.interval.mean < 0 else WORSE
    return OPEN


def _difference(ours: ArmLosses | None, theirs: ArmLosses | None, pooled: SeedVariance) -> Difference | None:
    """Difference over the seeds that both have; what has no seeds stands beside each."""
    if ours is None or theirs is None or not np.array_equal(ours.groups, theirs.groups):
        return None
    seeds = _shared_seeds(ours, theirs)
    if not seeds:
        return None
    first, second = (_stacked(arm, seeds) for arm in (ours, theirs))
    return two_way_difference(first, second, ours.groups, pooled_seed_variance=pooled)


def _shared_seeds(ours: ArmLosses, theirs: ArmLosses) -> list[int]:
    with_seeds = [set(arm.by_seed) for arm in (ours, theirs) if arm.has_seeds]
    return sorted(set.intersection(*with_seeds)) if with_seeds else [0]


def _stacked(arm: ArmLosses, seeds: Iterable[int]) -> NDArray[np.float64]:
    if arm.has_seeds:
        return np.stack([arm.by_seed[seed] for seed in seeds])
    only = next(iter(arm.by_seed.values()))
    return np.stack([only for _ in seeds])


def no_difference() -> dict[str, Any]:
    """Return the columns of a row without a difference."""
    return dict.fromkeys(DIFFERENCE_COLUMNS[:-1], math.nan) | {"verdict": ""}
