"""What is measured with trained weights, which most published results come without."""

import functools
import logging
from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from typing import Any

import pandas as pd

from newllm.config.contents import digest_of_place
from newllm.config.experiment import BENCHMARKS
from newllm.config.groups import RunParameters
from newllm.experiments.scoring import is_loaded, trained_here
from newllm.files import SAVED_MODEL, read_plain_json
from newllm.runs.folder import Run
from newllm.runs.missing_weights import training_command
from newllm.runs.parts import FinishedPart, Part, do_part, find_part

logger = logging.getLogger(__name__)
# Of which weights a part is, in its folder; among what is published there are the tables alone.
WEIGHTS_FILE = "weights.json"
# Arms that a command names; of more it names one.
MOST_NAMED = 3
Measure = Callable[[pd.Series], Mapping[str, pd.DataFrame]]


def with_weights(
    records: pd.DataFrame, parameters: RunParameters, measured: Collection[str] = frozenset()
) -> pd.DataFrame:
    """Return the trials whose trained weights are here, and say which are not, with the command that makes them.

    Trained models that were only scored are no trials.

    Parameters
    ----------
    records
        Rows of `newllm.experiments.comparison.compare`.
    parameters
        The notebook's.
    measured
        Other arms, which need no weights, for what is asked was measured of them before.
    """
    records = trained_here(records)
    here = [(folder / SAVED_MODEL).is_dir() for folder in records["folder"]]
    missing = records.loc[[not found for found in here], "arm"].unique()
    if len(missing):
        few = len(missing) <= MOST_NAMED
        before = set(measured) - set(missing)
        others = "1 other was" if len(before) == 1 else f"{len(before)} others were"
        logger.info(
            "%d of %d arms are published without weights%s: `%s` trains %s.",
            len(missing),
            len(before.union(records["arm"])),
            f", and {others} measured before" if before else "",
            _training(list(missing) if few else [missing[0]], parameters),
            "them" if few else "the first of them; any other can be named in its place",
        )
    return records[pd.Series(here, index=records.index, dtype=bool)]


def _training(arms: list[str], parameters: RunParameters) -> str:
    """Return the command that trains arms anew, and asks them what the notebook asks."""
    asked = getattr(parameters, BENCHMARKS, None)
    given = {"arms": arms} | ({BENCHMARKS: asked} if asked else {})
    return training_command(parameters.notebook, parameters.profile, given)


def measure_trials(
    records: pd.DataFrame,
    parameters: RunParameters,
    folder: Path,
    name: str,
    settings: Mapping[str, Any],
    measure: Measure,
    loaded: Mapping[str, str] | None = None,
) -> dict[str, pd.DataFrame]:
    """Measure something of every trial with its weights, or take it over from where it was measured before.

    Each trial's is a part of the notebook's run, and says beside its tables of which weights they are: where a trial
    has others, trained anew, it is measured again. Of a trial without weights and without such a part it is said which
    command makes them.

    Parameters
    ----------
    records
        Rows of `newllm.experiments.comparison.compare`.
    parameters
        The notebook's.
    folder
        Of the notebook's run.
    name
        What is measured, the name of a folder.
    settings
        Plain JSON values that decide the result, the trial aside.
    measure
        Gives tables by name for a row of ``records``, whose ``folder`` holds the weights.
    loaded
        Where the trained models are that were only scored, by arm; those that it does not name are left out.

    Returns
    -------
    dict
        The tables of all trials, one below the other, with ``arm`` and ``seed``; none where no trial has them.
    """
    loaded = loaded or {}
    records = records[records["arm"].map(lambda arm: arm in loaded or not is_loaded(arm)).astype(bool)]
    found: dict[Any, FinishedPart] = {}
    waiting: dict[Any, Part] = {}
    for index, trial in records.iterrows():
        part = part_of_trial(trial["folder"].name, trial["parameters"], name, settings)
        known = find_part(part, folder, rerun=parameters.rerun)
        if known is None or _is_of_other_weights(known, trial["folder"]):
            waiting[index] = part
        else:
            found[index] = known
    ready = records.loc[list(waiting)]
    elsewhere = ready[ready["arm"].isin(loaded)]
    measured = set(records.loc[list(found), "arm"])
    ready = pd.concat(
        [with_weights(ready, parameters, measured), elsewhere.assign(folder=elsewhere["arm"].map(loaded))]
    )
    for index, trial in ready.iterrows():
        make, run = functools.partial(_measured, measure, trial), waiting[index].run_in(folder)
        outdated = run.is_finished
        if outdated:
            run.clear()
        # Those of other weights are not to be taken over once more.
        found[index] = do_part(waiting[index], folder, make, rerun=parameters.rerun or outdated)
    tables: dict[str, list[pd.DataFrame]] = {}
    for index, trial in records.iterrows():
        for title, table in found[index].tables.items() if index in found else ():
            tables.setdefault(title, []).append(table.assign(arm=trial["arm"], seed=trial["seed"]))
    return {title: pd.concat(frames, ignore_index=True) for title, frames in tables.items()}


def part_of_trial(folder: str, identity: Mapping[str, Any], name: str, settings: Mapping[str, Any]) -> Part:
    """Return the part that measures something of a trial.

    Parameters
    ----------
    folder
        Name of the trial's folder.
    identity
        Of the trial.
    name, settings
        As for `measure_trials`.
    """
    return Part(f"{name}/{folder}", {"trial": dict(identity), **settings})


def _measured(measure: Measure, trial: pd.Series, run: Run) -> Mapping[str, pd.DataFrame]:
    weights = digest_of_place(trial["folder"])
    if weights is not None:
        run.write_json(WEIGHTS_FILE, {"weights": weights})
    return measure(trial)


def _is_of_other_weights(part: FinishedPart, trial: Path) -> bool:
    """Tell whether a part says that it was measured of other weights than a trial has here; published ones do not."""
    file = part.folder / WEIGHTS_FILE
    weights = digest_of_place(trial) if file.is_file() else None
    return weights is not None and read_plain_json(file)["weights"] != weights
