"""Run folders: what a run leaves on disk, and how it is found again.

A notebook's run is one folder, named after the parameters that decide its result. Its trials (one arm with one seed)
are folders inside. ``run.json`` says what is being run and whether it is finished; ``record.json`` holds a result. Both
are replaced in one step, so a killed run leaves either the old file or the new one, and is taken up where it stopped.
"""

import json
import logging
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pandas
from plotly import graph_objects

from newllm.config.groups import RunParameters
from newllm.files import outputs_folder, to_json, write_atomically
from newllm.runs.pictures import FIGURES_FOLDER, save_figure
from newllm.runs.record import RECORD_FILE, Record, read_record

logger = logging.getLogger(__name__)


STATE_FILE = "run.json"


TABLES_FOLDER = "tables"


SWEEPS_FOLDER = "sweeps"


SAVED_MODEL = "model"


class RunError(RuntimeError):
    """A run folder that cannot be used as asked."""


class Run:
    """A folder that is worked in until it is finished.

    Parameters
    ----------
    folder
        Where the run keeps its files.
    identity
        Plain JSON values that decide the result.

    Raises
    ------
    RunError
        If the folder holds something else than this run.
    """

    def __init__(self, folder: Path, identity: Mapping[str, Any]) -> None:
        self.folder = folder
        self.identity = json.loads(to_json(dict(identity)))
        state = self._state()
        if state is None and folder.is_dir() and any(path.suffix != ".ipynb" for path in folder.iterdir()):
            raise RunError(f"{folder} holds files that are not a run's; choose an empty output_folder.")
        if state is not None and state["identity"] != self.identity:
            before = state["identity"]
            keys = [key for key in {**before, **self.identity} if before.get(key) != self.identity.get(key)]
            raise RunError(
                f"{folder} holds a run with another {' and '.join(keys)}; choose another output_folder or delete it."
            )

    @property
    def is_started(self) -> bool:
        """Whether the run began at some time: if it is not finished, it was interrupted."""
        return self._state() is not None

    @property
    def is_finished(self) -> bool:
        """Whether there is nothing left to do."""
        state = self._state()
        return state is not None and state["finished"]

    def start(self) -> None:
        """Create the folder and say what is run in it; a run that was interrupted keeps its files."""
        self.folder.mkdir(parents=True, exist_ok=True)
        self._write_state(finished=False, seconds=None)

    def finish(self, seconds: float, record: Record | None = None) -> None:
        """Write the result and mark the run as finished.

        Parameters
        ----------
        seconds
            How long the run took.
        record
            The result; None where the results are those of the run's parts.
        """
        if record is not None:
            self.write_json(RECORD_FILE, record)
        self._write_state(finished=True, seconds=seconds)

    def clear(self) -> None:
        """Delete what the run left, except notebooks: papermill may be writing one there."""
        if not self.is_started:
            return
        for path in self.folder.iterdir():
            if path.is_dir():
                shutil.rmtree(path)
            elif path.suffix != ".ipynb":
                path.unlink()

    def part(self, name: str, identity: Mapping[str, Any]) -> "Run":
        """Return the run of one part, in a folder inside this one; its identity includes this run's."""
        return Run(self.folder / name, {**self.identity, **identity})

    def record(self) -> Record:
        """Read the result of a finished run."""
        return read_record(self.folder)

    def write_json(self, name: str, value: Any) -> Path:
        """Write a value as JSON in one step; a number that is not finite becomes null."""
        return self.write_text(name, to_json(value))

    def write_text(self, name: str, text: str) -> Path:
        """Write a text in one step."""
        return write_atomically(self.folder / name, text)

    def save_figure(self, figure: graph_objects.Figure, name: str) -> None:
        """Save a figure among the run's figures, as `save_figure` does."""
        save_figure(figure, self.folder / FIGURES_FOLDER, name)

    def save_table(self, table: pandas.DataFrame, name: str) -> None:
        """Save a table among the run's tables, as ``<name>.csv`` without its index."""
        self.write_text(f"{TABLES_FOLDER}/{name}.csv", table.to_csv(index=False))

    def equal_run(self, outputs: Path) -> Path | None:
        """Return the folder of a finished run of the same folder name and the same identity, if there is one.

        Parameters
        ----------
        outputs
            Folder under which to look.
        """
        for path in sorted(outputs.rglob(f"{self.folder.name}/{STATE_FILE}")):
            state = json.loads(path.read_text(encoding="utf-8"))
            if state["finished"] and state["identity"] == self.identity:
                return path.parent
        return None

    def take_over(self, outputs: Path) -> bool:
        """Copy an equal run that was finished elsewhere, and tell whether there was one.

        A run that was started here is left to go on here.

        Parameters
        ----------
        outputs
            Folder under which to look for it, as `equal_run` does.
        """
        equal = None if self.is_started else self.equal_run(outputs)
        if equal is None:
            return False
        copying = self.folder.with_name(f".{self.folder.name}")
        shutil.rmtree(copying, ignore_errors=True)
        shutil.copytree(equal, copying)
        copying.rename(self.folder)
        logger.info("%s was finished before and is taken over from %s.", self.folder.name, equal.parent)
        return True

    def _state(self) -> dict[str, Any] | None:
        path = self.folder / STATE_FILE
        return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else None

    def _write_state(self, *, finished: bool, seconds: float | None) -> None:
        self.write_json(STATE_FILE, {"finished": finished, "seconds": seconds, "identity": self.identity})


def open_run(parameters: RunParameters) -> Run:
    """Open the run folder of a notebook and write its parameters there.

    The folder is ``output_folder``, or ``<outputs>/<notebook>/<profile>-<fingerprint>``. With ``rerun`` what an earlier
    run left is deleted first; otherwise it is kept and taken up.
    """
    run = notebook_run(parameters)
    if parameters.rerun:
        run.clear()
    if not run.is_finished:
        run.start()
    run.write_text("parameters.yaml", parameters.to_yaml())
    return run


def notebook_run(parameters: RunParameters) -> Run:
    """Return the run of a notebook with these parameters; nothing is written."""
    named = outputs_folder() / parameters.notebook / f"{parameters.profile}-{parameters.fingerprint()}"
    return Run(parameters.output_folder or named, parameters.identity())


def earlier_seconds(notebook: str, profile: str) -> float | None:
    """Return how long the newest finished run of a notebook in a profile took, or None if there was none."""
    states = sorted(
        (outputs_folder() / notebook).glob(f"{profile}-*/{STATE_FILE}"), key=lambda path: path.stat().st_mtime
    )
    seconds = [json.loads(path.read_text(encoding="utf-8"))["seconds"] for path in states]
    return next((value for value in reversed(seconds) if value is not None), None)
