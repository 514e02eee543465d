"""The seal of a finished run: what was run, and the digest of every file that it left."""

from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, ValidationError

from newllm.files import FINISHED_FILE, DamagedFileError, read_json


class Seal(BaseModel):
    """What the mark of a finished run says.

    Attributes
    ----------
    identity
        What was run.
    files
        SHA-256 of each of its files, by its name in the folder. Whether a name leads out of there,
        `newllm.files.first_damaged` says.
    trials
        Names of the folders of runs inside.
    """

    model_config = ConfigDict(frozen=True)

    identity: dict[str, Any]
    files: dict[str, str]
    trials: tuple[str, ...]


def read_seal(folder: Path) -> Seal:
    """Read the seal of a finished run.

    Raises
    ------
    FileNotFoundError
        Where the run is not finished.
    DamagedFileError
        Where the seal is anything but what was written.
    """
    try:
        return Seal.model_validate(read_json(folder / FINISHED_FILE))
    except ValidationError as error:
        raise DamagedFileError(f"{folder / FINISHED_FILE} is no mark of a finished run of this version") from error
