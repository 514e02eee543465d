"""The record in a folder, for whoever believes it: as its run wrote it, and in agreement with itself."""

from pathlib import Path

from pydantic import ValidationError

from newllm.config.errors import first_problem
from newllm.files import DamagedFileError, first_damaged
from newllm.runs.record import RECORD_FILE, Record, read_record
from newllm.runs.seal import read_seal


class RecordError(DamagedFileError):
    """A record that cannot be believed; the message names it.

    Attributes
    ----------
    reason
        Why, without the name of the file.
    """

    def __init__(self, file: Path, reason: str) -> None:
        super().__init__(f"{file} cannot be used ({reason}): run the trial again.")
        self.reason = reason


def read_sealed_record(folder: Path) -> Record:
    """Read the result that a run left in its folder, and refuse what was changed since the run was finished.

    Of a finished run the files of numbers count, which tables and figures read beside the record; weights are checked
    by whoever loads them. One that is not finished has a record that nothing vouches for, and is read as it is.

    Raises
    ------
    RecordError
        Where the record is none of this version, contradicts itself, or is not what the run wrote.
    """
    file = folder / RECORD_FILE
    try:
        damaged = _changed_since(folder)
        if damaged is not None:
            raise RecordError(file, f"{damaged.name} is not as the run left it: damaged, missing or changed")
        return read_record(folder)
    except ValidationError as error:
        raise RecordError(file, f"not a record of this version: {first_problem(error)}") from error
    except OSError as error:
        raise RecordError(file, f"it cannot be read: {error.strerror}") from error


def is_of_a_trial(folder: Path) -> bool:
    """Tell whether a trial left its record in a folder, be it that somebody took it away since."""
    if (folder / RECORD_FILE).is_file():
        return True
    try:
        return RECORD_FILE in read_seal(folder).files
    except (FileNotFoundError, DamagedFileError):
        return False


def record_beside(model: Path) -> Record | None:
    """Read the record of the trial that trained a saved model; None where it is no trial's.

    Parameters
    ----------
    model
        Folder or file of the model.

    Raises
    ------
    RecordError
        As `read_sealed_record`.
    """
    return read_sealed_record(model.parent) if is_of_a_trial(model.parent) else None


def _changed_since(folder: Path) -> Path | None:
    """Return the first file of numbers that is not as it was when the run was finished."""
    try:
        files = read_seal(folder).files
    except FileNotFoundError:
        return None
    except DamagedFileError as error:
        raise RecordError(folder / RECORD_FILE, str(error)) from error
    if RECORD_FILE not in files:
        return folder / RECORD_FILE
    return first_damaged(folder, {name: known for name, known in files.items() if _holds_numbers(name)})


def _holds_numbers(name: str) -> bool:
    return "/" not in name and name.endswith(".json")
