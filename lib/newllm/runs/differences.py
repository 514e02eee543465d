"""In what two runs differ."""

from pathlib import Path
from typing import Any

import pandas

from newllm.files import RUN_FILE, DamagedFileError, different_keys, read_json
from newllm.runs.lock import RunError
from newllm.runs.record import RECORD_FILE
from newllm.runs.sealed_record import RecordError, read_sealed_record


def parameter_differences(first: Path, second: Path) -> pandas.DataFrame:
    """Compare what two runs were run with.

    Parameters
    ----------
    first, second
        Folders that hold a record, or a run of any kind.

    Returns
    -------
    pandas.DataFrame
        One row for each parameter that differs, and for notebook, commit and versions where they are recorded:
        ``name``, ``first`` and ``second``; None where one of them has nothing of that name.

    Raises
    ------
    RunError
        Where a folder holds neither record nor run, or one that is damaged or not as its run left it.
    """
    ours, theirs = (_ran_with(folder) for folder in (first, second))
    rows = [(name, ours.get(name), theirs.get(name)) for name in different_keys(ours, theirs)]
    return pandas.DataFrame(rows, columns=["name", "first", "second"], dtype=object)


def _ran_with(folder: Path) -> dict[str, Any]:
    if (folder / RECORD_FILE).is_file():
        try:
            record = read_sealed_record(folder)
        except RecordError as error:
            raise RunError(str(error)) from error
        provenance = record.provenance
        versions = {f"{name} (version)": version for name, version in provenance.versions.items()}
        return {"notebook": record.notebook, **record.parameters, "commit": provenance.commit, **versions}
    try:
        identity: dict[str, Any] = read_json(folder / RUN_FILE)["identity"]
    except DamagedFileError as error:
        raise RunError(str(error)) from error
    except FileNotFoundError as error:
        raise RunError(
            f"{folder} holds neither {RECORD_FILE} nor {RUN_FILE}: give the folder of a run or of a record."
        ) from error
    return identity
