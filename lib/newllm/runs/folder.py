"""Run folders: what a run leaves on disk, and how it is found again.

A notebook's run is one folder, named after the parameters that decide its result. Its trials (one arm with one seed)
are folders inside. ``run.json`` says what is being run; ``finished.json``, written last, that it is finished, with the
digest of every file that it is made of; ``record.json`` holds a result. Each is written in one step, so a killed run
leaves either the old file or the new one, and is taken up where it stopped; a finished run of which a file is damaged
or missing counts as interrupted.
"""

import functools
import itertools
import json
import logging
import shutil
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from newllm.config.groups import RunParameters
from newllm.files import (
    FINISHED_FILE,
    PARTIAL,
    RUN_FILE,
    DamagedFileError,
    different_keys,
    digest_of_file,
    digest_of_json,
    outputs_folder,
    project_root,
    read_json,
    remove_leftovers,
    to_json,
    why_unwritable,
    write_atomically,
    write_json,
)
from newllm.runs.contents import (
    delete_files,
    holds_files,
    identity_of,
    is_a_strangers,
    is_hidden,
    remove_empty_folders,
    runs_inside,
    sealed_files,
    visible,
    why_unfinished,
)
from newllm.runs.lock import RunError, locked
from newllm.runs.record import RECORD_FILE, Record, read_record

if TYPE_CHECKING:  # Whoever loads a trained model needs neither.
    import pandas
    from plotly import graph_objects

logger = logging.getLogger(__name__)
TABLES_FOLDER = "tables"
SWEEPS_FOLDER = "sweeps"

# Where the files of a run are put aside of which nobody can tell any more what was run.
ASIDE = ".damaged"


@functools.cache
def _warn_once(message: str) -> None:
    logger.warning("%s", message)


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
        self.identity: dict[str, Any] = json.loads(to_json(dict(identity)))
        self._look()

    def _look(self) -> None:
        """Read what the folder says of itself."""
        before = identity_of(self.folder)
        if before is None and is_a_strangers(self.folder / RUN_FILE):
            raise RunError(f"{self.folder / RUN_FILE} is no file of this version; choose another folder.")
        self.is_started = before is not None or (self.folder / RUN_FILE).is_file()
        self._is_finished: bool | None = None if self.is_started else False
        self._has_unknown_files = self.is_started and before is None
        if not self.is_started and holds_files(self.folder):
            raise RunError(f"{self.folder} holds files that are not a run's; choose an empty one.")
        if before is not None and (different := different_keys(before, self.identity)):
            raise RunError(
                f"{self.folder} holds a run with another {' and '.join(different)}; choose another folder or delete it."
            )

    @property
    def key(self) -> str:
        """Digest of the folder's name and the identity: equal runs have equal ones, wherever they are."""
        return _key(self.folder, self.identity)

    @property
    def is_finished(self) -> bool:
        """Whether there is nothing left to do: the run is finished, and every file of it is as it was written."""
        if self._is_finished is None:
            reason = why_unfinished(self.folder)
            if reason:
                _warn_once(f"{reason}: what is missing in {self.folder} is made again.")
            self._is_finished = reason is None
        return self._is_finished

    @contextmanager
    def work(self) -> Iterator[None]:
        """Work in the folder alone; who else works there is named, and waited for.

        Raises
        ------
        RunError
            Where nothing can be written there.
        """
        with ExitStack() as stack:
            try:
                stack.enter_context(locked(self.folder))
            except OSError as error:
                raise _unwritable(self.folder, error) from error
            self._look()  # Another process may have finished it meanwhile.
            for path in (*self.folder.glob(f"{PARTIAL}*.*"), *self.folder.glob(f"*/{PARTIAL}*.*")):
                # What a trial inside left is its own affair: somebody may be writing there.
                if path.parent == self.folder or not (path.parent / RUN_FILE).exists():
                    path.unlink(missing_ok=True)
            yield

    def start(self) -> None:
        """Create the folder and say what is run in it; a run that was interrupted keeps its files."""
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            if self._has_unknown_files:
                self._put_aside()
            (self.folder / FINISHED_FILE).unlink(missing_ok=True)
            write_json(self.folder / RUN_FILE, {"identity": self.identity})
        except OSError as error:
            raise _unwritable(self.folder, error) from error
        self.is_started, self._is_finished, self._has_unknown_files = True, False, False

    def remove_leftovers(self) -> None:
        """Delete what killed writers left; the folder must be locked."""
        remove_leftovers(self.folder)

    def finish(self, seconds: float, record: Record | None = None) -> None:
        """Write the result and mark the run as finished, with a digest of all it is made of.

        Parameters
        ----------
        seconds
            How long the run took.
        record
            The result; None where the results are those of the trials inside.
        """
        if record is not None:
            self.write_json(RECORD_FILE, record)
        files = {name: digest_of_file(self.folder / name) for name in sealed_files(self.folder)}
        # What is only begun belongs to another run of this folder, such as a sweep that was asked for more arms.
        inside = [path.parent for path in runs_inside(self.folder) if (path.parent / FINISHED_FILE).is_file()]
        trials = [trial.relative_to(self.folder).as_posix() for trial in inside]
        content = {"identity": self.identity, "seconds": seconds, "files": files, "trials": trials}
        write_json(self.folder / FINISHED_FILE, content)
        self._is_finished = True

    def clear(self) -> None:
        """Delete what the run left, except notebooks: papermill may be writing one there.

        First of all it is no longer finished, and what was run is forgotten last: a kill on the way leaves an
        interrupted run.

        Raises
        ------
        RunError
            Where somebody works in one of its trials.
        """
        if not self.is_started or self._has_unknown_files:
            return
        inside = [path.parent for path in runs_inside(self.folder)]
        try:
            with ExitStack() as locks:
                for folder in inside:
                    locks.enter_context(locked(folder, wait=False))
                delete_files(self.folder)
        except OSError as error:
            raise _unwritable(self.folder, error) from error
        remove_empty_folders(self.folder)
        self._look()

    def record(self) -> Record:
        """Read the result of a finished run."""
        return read_record(self.folder)

    def write_json(self, name: str, value: Any) -> Path:
        """Write a value as JSON in one step; a number that is not finite becomes null."""
        return self.write_text(name, to_json(value))

    def write_text(self, name: str, text: str) -> Path:
        """Write a text in one step."""
        try:
            path = write_atomically(self.folder / name, text)
        except OSError as error:
            raise _unwritable(self.folder, error) from error
        self._seal_again(path)
        return path

    def save_figure(self, figure: "graph_objects.Figure", name: str) -> None:
        """Save a figure among the run's figures, as `newllm.runs.pictures.save_figure` does."""
        # Here, because it draws with plotly, which whoever loads a trained model can do without.
        from newllm.runs.pictures import FIGURES_FOLDER, save_figure

        try:
            self._seal_again(*save_figure(figure, self.folder / FIGURES_FOLDER, name))
        except OSError as error:
            raise _unwritable(self.folder, error) from error

    def save_table(self, table: "pandas.DataFrame", name: str) -> None:
        """Save a table among the run's tables, as ``<name>.csv`` without its index."""
        self.write_text(f"{TABLES_FOLDER}/{name}.csv", table.to_csv(index=False))

    def take_over(self, finished: Mapping[str, Path]) -> Path | None:
        """Copy an equal run that was finished elsewhere, and return where it was; None where there was none.

        A run that was started here is left to go on here.

        Parameters
        ----------
        finished
            Where finished runs are, as `finished_runs` gives them.
        """
        equal = None if self.is_started else finished.get(self.key)
        if equal is None or why_unfinished(equal):
            return None
        with self.work():
            if self.is_started:
                return None
            remove_leftovers(self.folder)
            copy = self.folder / f"{PARTIAL}copy"
            shutil.copytree(equal, copy, ignore=shutil.ignore_patterns(".*"))
            if why_unfinished(copy):
                shutil.rmtree(copy)
                return None
            # What is run is said first, that it is finished last: a kill on the way leaves an interrupted run.
            for path in sorted(copy.iterdir(), key=lambda path: (path.name == FINISHED_FILE, path.name != RUN_FILE)):
                path.rename(self.folder / path.name)
            copy.rmdir()
            self._look()
        return equal

    def _seal_again(self, *paths: Path) -> None:
        """Note that files of a finished run were written again, or are gone."""
        if not self.is_finished:
            return
        stored = read_json(self.folder / FINISHED_FILE)
        for path in paths:
            name = path.relative_to(self.folder).as_posix()
            stored["files"].pop(name, None)
            if path.is_file():
                stored["files"][name] = digest_of_file(path)
        write_json(self.folder / FINISHED_FILE, stored)

    def _put_aside(self) -> None:
        aside = next(place for number in itertools.count() if not (place := self.folder / f"{ASIDE}-{number}").exists())
        _warn_once(f"{self.folder / RUN_FILE} is damaged: what lies there is put into {aside} and made again.")
        aside.mkdir()
        for path in list(visible(self.folder)):
            path.rename(aside / path.name)


def finished_runs(*folders: Path) -> dict[str, Path]:
    """Return where finished runs are below some folders, by their `Run.key`; damaged ones are left out.

    Parameters
    ----------
    folders
        Folders to walk through, those first whose runs are wanted more; they need not exist. One that lies within
        another is walked through in its own place only.
    """
    found: dict[str, Path] = {}
    for folder in folders:
        within = [other for other in folders if other != folder and other.is_relative_to(folder)]
        for path in sorted(folder.rglob(FINISHED_FILE)):
            if is_hidden(path, folder) or any(path.is_relative_to(other) for other in within):
                continue
            key = _key_of_finished(path)
            if key is not None:
                found.setdefault(key, path.parent)
    return found


def _key_of_finished(path: Path) -> str | None:
    """Return the key of the run that a file says is finished; None where it is damaged, gone, or somebody else's."""
    try:
        status = path.stat()
    except FileNotFoundError:
        return None
    return _read_key(path, (status.st_ino, status.st_mtime_ns, status.st_size))


@functools.lru_cache(maxsize=16_384)
def _read_key(path: Path, version: tuple[int, ...]) -> str | None:
    """Read a mark once: a file that has not been written since is not read again."""
    try:
        return _key(path.parent, read_json(path)["identity"])
    except (DamagedFileError, FileNotFoundError, KeyError):
        return None


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
    logger.info("This run, with parameters.yaml: %s", among_outputs(run.folder))
    return run


def among_outputs(folder: Path) -> Path:
    """Return the place of a folder as seen from beside the outputs folder, or from the clone, where it is in there."""
    above = (outputs_folder().parent, project_root())
    return next((folder.relative_to(place) for place in above if folder.is_relative_to(place)), folder)


def notebook_run(parameters: RunParameters) -> Run:
    """Return the run of a notebook with these parameters; nothing is written."""
    named = outputs_folder() / parameters.notebook / f"{parameters.profile}-{parameters.fingerprint()}"
    return Run(parameters.output_folder or named, parameters.identity())


def earlier_seconds(notebook: str, profile: str) -> float | None:
    """Return how long the newest finished run of a notebook in a profile took, or None if there was none."""
    marks = (outputs_folder() / notebook).glob(f"{profile}-*/{FINISHED_FILE}")
    for path in sorted(marks, key=lambda path: path.stat().st_mtime, reverse=True):
        try:
            return float(read_json(path)["seconds"])
        except DamagedFileError:
            continue
    return None


def _key(folder: Path, identity: Mapping[str, Any]) -> str:
    return digest_of_json([folder.name, identity])


def _unwritable(folder: Path, error: OSError) -> RunError:
    return RunError(why_unwritable(folder, error))
