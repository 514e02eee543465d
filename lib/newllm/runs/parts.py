"""Parts of a notebook's work beside its trials: what takes long and ends in tables, each a run of its own.

So a part that was finished before with equal settings is taken over, a published one too, as a trial is.
"""

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from newllm.files import outputs_folder, reference_folder
from newllm.runs.folder import TABLES_FOLDER, Run, finished_runs

PART = "part"
Make = Callable[[Run], Mapping[str, pd.DataFrame]]


@dataclass(frozen=True)
class Part:
    """What is done once, by what decides its result.

    Attributes
    ----------
    name
        Its folder in that of the notebook's run, such as ``decoding`` or ``leak/swapped``.
    settings
        Plain JSON values that decide the result.
    """

    name: str
    settings: Mapping[str, Any]

    def run_in(self, folder: Path) -> Run:
        """Return the run of the part in the folder of a notebook's run; nothing is written."""
        return Run(folder / self.name, {PART: self.name, **self.settings})


@dataclass(frozen=True)
class FinishedPart:
    """A part that is done.

    Attributes
    ----------
    folder
        Its folder.
    tables
        Its tables by name.
    """

    folder: Path
    tables: dict[str, pd.DataFrame]


def find_part(part: Part, folder: Path, *, rerun: bool = False) -> FinishedPart | None:
    """Return a part that is finished here, or was elsewhere with equal settings; None where there is none.

    Parameters
    ----------
    part
        The part.
    folder
        Of the notebook's run.
    rerun
        Whether to look here alone.
    """
    run = part.run_in(folder)
    if not run.is_finished and not rerun:
        run.take_over(finished_runs(outputs_folder(), reference_folder()))
    return _read(run) if run.is_finished else None


def do_part(part: Part, folder: Path, make: Make, *, rerun: bool = False) -> FinishedPart:
    """Return a part as `find_part` does, and do it where there is none.

    Parameters
    ----------
    part, folder, rerun
        As for `find_part`.
    make
        Does the work and returns tables by name; the run is there for files beside them.
    """
    found = find_part(part, folder, rerun=rerun)
    if found is not None:
        return found
    run = part.run_in(folder)
    with run.work():
        if not run.is_finished:  # another process may have done it while this one waited
            run.start()
            started = time.perf_counter()
            for name, table in make(run).items():
                run.save_table(table, name)
            run.finish(time.perf_counter() - started)
    return _read(run)


def is_part(identity: Mapping[str, Any]) -> bool:
    """Tell whether a run with this identity is a part."""
    return PART in identity


def _read(run: Run) -> FinishedPart:
    paths = sorted((run.folder / TABLES_FOLDER).glob("*.csv"))
    # To the last digit, as they were written.
    return FinishedPart(run.folder, {path.stem: pd.read_csv(path, float_precision="round_trip") for path in paths})
