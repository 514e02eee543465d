"""A finished run without its weights: small enough to be committed, and still a run that others take over."""

import shutil
from collections.abc import Sequence
from pathlib import Path

from newllm.files import FINISHED_FILE, RUN_FILE, digest_of_file, read_json, write_json


def publish_run(folder: Path, target: Path, files: Sequence[str]) -> None:
    """Copy the files of a finished run that tables and figures read, sealed as a run of their own.

    Parameters
    ----------
    folder
        Of the finished run.
    target
        Where the copy goes; what lies there under the same names is replaced.
    files
        Names of the files to copy.

    Raises
    ------
    FileNotFoundError, newllm.files.DamagedFileError
        Where the run is not finished, or lacks one of the files.
    """
    stored = read_json(folder / FINISHED_FILE)
    target.mkdir(parents=True, exist_ok=True)
    for name in (*files, RUN_FILE):
        shutil.copyfile(folder / name, target / name)
    kept = {name: digest_of_file(target / name) for name in sorted(files)}
    write_json(target / FINISHED_FILE, stored | {"files": kept, "trials": []})
