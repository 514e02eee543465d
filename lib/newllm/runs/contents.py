"""What lies in a run folder: whose it is, which files the run is made of, and whether they are as they were written."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from newllm.files import (
    FINISHED_FILE,
    RUN_FILE,
    SAVED_MODEL,
    DamagedFileError,
    first_damaged,
    leads_inside,
    read_json,
    read_plain_json,
)
from newllm.runs.lock import LOCK_FILE
from newllm.runs.progress import PROGRESS_FILE
from newllm.runs.record import RECORD_FILE
from newllm.runs.seal import read_seal
from newllm.runs.sealed_record import read_sealed_record

# What is no result of the run, or may change after it: executed notebooks, and what evaluations add to a trial.
NOT_SEALED = (RUN_FILE, FINISHED_FILE, PROGRESS_FILE, "*.ipynb", "evaluation-*.json")


def is_hidden(path: Path, folder: Path) -> bool:
    """Whether a file lies in a hidden folder below ``folder``: a copy that is being made, or what was put aside."""
    return any(part.startswith(".") for part in path.relative_to(folder).parts)


def identity_of(folder: Path) -> dict[str, Any] | None:
    """Return what is run in a folder, by the first of its two files that can be read."""
    for name in (RUN_FILE, FINISHED_FILE):
        try:
            identity = read_json(folder / name).get("identity")
        except (DamagedFileError, FileNotFoundError, NotADirectoryError):
            continue
        if isinstance(identity, dict):
            return identity
    return None


def is_a_strangers(path: Path) -> bool:
    """Whether a file is whole, but none that `write_json` wrote."""
    try:
        stored = read_plain_json(path)
    except (DamagedFileError, FileNotFoundError, NotADirectoryError):
        return False
    return not isinstance(stored, dict) or "digest" not in stored


def why_unfinished(folder: Path) -> str | None:
    """Return why a started run counts as unfinished: empty where it never was finished; None where it is."""
    try:
        seal = read_seal(folder)
        damaged = first_damaged(folder, seal.files)
        if damaged is not None:
            return f"{damaged} is damaged or missing"
        if RECORD_FILE in seal.files:
            read_sealed_record(folder)
    except FileNotFoundError:
        return ""
    except (DamagedFileError, OSError) as error:
        return str(error)
    for name in seal.trials:
        if not leads_inside(folder, name):
            return f"{folder / FINISHED_FILE} names a trial that is not in its folder ({name})"
        reason = why_unfinished(folder / name)
        if reason is not None:
            return reason or "a trial is gone"
    return None


def damaged_model_file(folder: Path) -> Path | None:
    """Return the first file of the model that a finished run left which is not as it was written; None where none is.

    Raises
    ------
    FileNotFoundError, DamagedFileError
        As `newllm.runs.seal.read_seal`.
    """
    files = read_seal(folder).files
    return first_damaged(folder, {name: known for name, known in files.items() if name.startswith(f"{SAVED_MODEL}/")})


def visible(folder: Path) -> Iterator[Path]:
    """Yield what lies in a folder, except notebooks, locks and what is being written."""
    if folder.is_dir():
        yield from (path for path in folder.iterdir() if path.suffix != ".ipynb" and not path.name.startswith("."))


def holds_files(folder: Path) -> bool:
    """Whether something lies in a folder that is not ours: empty folders are what a killed deletion leaves."""
    return any(path.is_file() or (path.is_dir() and holds_files(path)) for path in visible(folder))


def runs_inside(folder: Path) -> list[Path]:
    """Return the ``run.json`` of each run in a folder, its own aside."""
    return [path for path in sorted(folder.glob(f"*/**/{RUN_FILE}")) if not is_hidden(path, folder)]


def sealed_files(folder: Path) -> list[str]:
    """Return the names of the files that a run is made of, those of runs inside aside."""
    inside = {path.parent for path in runs_inside(folder)}
    paths = (
        path
        for path in sorted(folder.rglob("*"))
        if path.is_file()
        and not is_hidden(path, folder)
        and inside.isdisjoint(path.parents)
        and not (path.parent == folder and any(path.match(pattern) for pattern in NOT_SEALED))
    )
    return [path.relative_to(folder).as_posix() for path in paths]


def delete_files(folder: Path) -> None:
    """Delete all but locks and the folder's own notebooks: the mark of a finished run first, what is run last."""
    (folder / FINISHED_FILE).unlink(missing_ok=True)
    for path in sorted(folder.iterdir()):
        if path.is_dir():
            delete_files(path)
            for notebook in path.glob("*.ipynb"):
                notebook.unlink()
        elif path.name != RUN_FILE and path.suffix != ".ipynb" and not path.name.startswith(LOCK_FILE):
            path.unlink()
    (folder / RUN_FILE).unlink(missing_ok=True)


def remove_empty_folders(folder: Path) -> None:
    """Remove the folders inside that hold nothing, or nothing but such ones."""
    for path in sorted(folder.rglob("*"), reverse=True):
        if path.is_dir() and not any(path.iterdir()):
            path.rmdir()
