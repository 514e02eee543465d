"""Differences between arms on the same test windows: one interval over seeds and documents together, and a verdict."""

import logging
import math
from collections.abc import Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from newllm.analysis.trial_files import read_window_losses
from newllm.evaluation.comparison_statistics import (
    Resampled,
    SeedVariance,
    holm,
    resample,
    seed_variance,
)
from newllm.evaluation.verdicts import BETTER, EQUIVALENCE_MARGIN, EQUIVALENT, OPEN, TOO_FEW_SEEDS, WORSE
from newllm.experiments.scoring import EVALUATION_FILE
from newllm.files import DamagedFileError

logger = logging.getLogger(__name__)

SIGNIFICANCE = 0.05
# With fewer degrees of freedom an interval holds the truth less often than it says, whatever the formula.
LEAST_SEED_FREEDOM = 2

OTHER_BUDGET = "another budget"

DIFFERENCE_COLUMNS = ("difference", "difference_low", "difference_high", "difference_p", "verdict")


@dataclass(frozen=True)
class ArmLosses:
    """What an arm lost on the test windows.

    Attributes
    ----------
    by_seed
        Mean loss of each window (N,), nats per token, by seed; one where there are no seeds.
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
    """Read the losses of the seeds of one arm, of all of them or of none.

    A mean beside a difference is of the same trials: where the losses of one seed are missing, damaged, or of other
    documents, no difference is taken of the arm, and a warning names the file.

    Parameters
    ----------
    records
        Rows of `newllm.experiments.comparison.compare`, of one arm.

    Returns
    -------
    ArmLosses or None
        None, without a warning, where no seed has any.
    """
    files = {int(record["seed"]): Path(record["folder"]) / EVALUATION_FILE for _, record in records.iterrows()}
    if not any(file.exists() for file in files.values()):
        return None
    by_seed: dict[int, NDArray[np.float64]] = {}
    groups: NDArray[np.int64] | None = None
    for seed, file in files.items():
        try:
            by_seed[seed], own_groups = read_window_losses(file)
            if groups is not None and not np.array_equal(groups, own_groups):
                raise DamagedFileError(f"{file} is of other documents than that of another seed")
        except (FileNotFoundError, DamagedFileError) as error:
            said = f"{file} is missing" if isinstance(error, FileNotFoundError) else error
            logger.warning("%s: no difference is taken of %s.", said, records["arm"].iloc[0])
            return None
        groups = own_groups
    return None if groups is None else ArmLosses(by_seed, groups)


def losses_by_arm(records: pd.DataFrame) -> dict[Hashable, ArmLosses | None]:
    """Read the losses of every arm, as `read_losses` does, by its name in the order of the records.

    Parameters
    ----------
    records
        Rows of `newllm.runs.records_table.load_records`.
    """
    return {arm: read_losses(trials) for arm, trials in records.groupby("arm", sort=False)}


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
        all these arms have in common; its p-value, adjusted for the number of pairs (Holm); and the verdict, for which
        equivalence is adjusted as well, and which is `TOO_FEW_SEEDS` where nobody knows what another seed would find.
        An empty dict where no windows are shared.
    """
    resampled = resample_pairs(losses, pairs, have_same_weights=have_same_weights)
    return judge_pairs(resampled, pooled_variance(losses.values()))


def resample_pairs(
    losses: Mapping[Hashable, ArmLosses | None],
    pairs: Sequence[tuple[Hashable, Hashable]],
    *,
    have_same_weights: bool = False,
) -> list[Resampled | None]:
    """Draw documents and seeds of the arms of each pair anew; None where no windows are shared.

    Parameters
    ----------
    losses, pairs, have_same_weights
        As for `compare_pairs`.
    """
    return [_resample(losses.get(ours), losses.get(theirs), have_same_weights) for ours, theirs in pairs]


def judge_pairs(resampled: Sequence[Resampled | None], pooled: SeedVariance) -> list[dict[str, Any]]:
    """Say of pairs that were named together what each differs by, and what that means.

    Parameters
    ----------
    resampled
        As `resample_pairs` gives them.
    pooled
        How much a seed changes the loss of an arm, and how well that is known.

    Returns
    -------
    list of dict
        As `compare_pairs` says.
    """
    found = {str(number): each.difference(pooled) for number, each in enumerate(resampled) if each is not None}
    differs = holm({number: difference.p_value for number, difference in found.items()})
    is_equal = holm({number: difference.equivalence_p(EQUIVALENCE_MARGIN) for number, difference in found.items()})
    rows: list[dict[str, Any]] = [{} for _ in resampled]
    for number, difference in found.items():
        said = TOO_FEW_SEEDS
        if _is_known(pooled):
            said = verdict(difference.interval.mean, differs[number], is_equal[number])
        rows[int(number)] = difference.interval.columns("difference") | {
            "difference_p": differs[number],
            "verdict": said,
        }
    return rows


def knows_seeds(losses: Iterable[ArmLosses | None]) -> bool:
    """Tell whether arms have seeds enough to say what another one would find: two have two of them, or one has three.

    Parameters
    ----------
    losses
        Of each arm of a comparison.
    """
    return _is_known(pooled_variance(losses))


def _is_known(variance: SeedVariance) -> bool:
    return variance.freedom >= LEAST_SEED_FREEDOM


def pooled_variance(losses: Iterable[ArmLosses | None]) -> SeedVariance:
    """Pool over the arms that have seeds how much a seed changes their loss.

    Parameters
    ----------
    losses
        As for `knows_seeds`.
    """
    return seed_variance([arm.means() for arm in losses if arm is not None and arm.has_seeds])


def verdict(difference: float, difference_p: float, equivalence_p: float) -> str:
    """Say what a difference means: equivalence first, as a difference may be sure and too small to matter.

    Parameters
    ----------
    difference
        Of the loss of an arm from that of another one, nats per token.
    difference_p
        P-value of no difference, adjusted for those it was named with.
    equivalence_p
        That of a difference beyond the margin, adjusted likewise.
    """
    if equivalence_p < SIGNIFICANCE:
        return EQUIVALENT
    if difference_p < SIGNIFICANCE:
        return BETTER if difference < 0 else WORSE
    return OPEN


def _resample(ours: ArmLosses | None, theirs: ArmLosses | None, have_same_weights: bool) -> Resampled | None:
    """Draw all seeds of one arm beside all of the other; readings of the same weights seed by seed."""
    if ours is None or theirs is None or not np.array_equal(ours.groups, theirs.groups):
        return None
    if not have_same_weights:
        first, second = (np.stack(list(arm.by_seed.values())) for arm in (ours, theirs))
        return resample(first, second, ours.groups, has_seeds=(ours.has_seeds, theirs.has_seeds))
    seeds = sorted(set(ours.by_seed) & set(theirs.by_seed))
    if not seeds:
        return None
    apart = np.stack([ours.by_seed[seed] - theirs.by_seed[seed] for seed in seeds])
    # What a seed changes is in the differences themselves, and no pool of arms knows of it.
    return resample(apart, np.zeros_like(apart[:1]), ours.groups, has_seeds=(False, False))


def no_difference() -> dict[str, Any]:
    """Return the columns of a row without a difference."""
    return dict.fromkeys(DIFFERENCE_COLUMNS[:-1], math.nan) | {"verdict": ""}
