"""What finished runs left in JSON files beside their records: read in one way, which says what is wrong with a file."""

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from newllm.files import DamagedFileError, read_plain_json


def rows_of_trials(records: pd.DataFrame, name: str, *entry: str) -> pd.DataFrame:
    """Gather the rows that a file in the folder of each trial has.

    Parameters
    ----------
    records
        Rows of `newllm.experiments.comparison.compare`.
    name
        The file's.
    entry
        Where the rows stand in it, as for `read_rows`.

    Returns
    -------
    pandas.DataFrame
        The rows of all trials, with ``arm`` and ``seed``.

    Raises
    ------
    FileNotFoundError, DamagedFileError
        As `read_entry`.
    """
    frames = [
        pd.DataFrame(read_rows(Path(record["folder"]) / name, *entry)).assign(arm=record["arm"], seed=record["seed"])
        for _, record in records.iterrows()
    ]
    return pd.concat(frames, ignore_index=True)


def read_rows(file: Path, *entry: str) -> list[dict[str, Any]]:
    """Read an entry that is a list of rows, as `read_entry` reads any."""
    rows = read_entry(file, *entry)
    if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
        raise DamagedFileError(f"{file} is damaged: its {_words(entry)} is no list of rows")
    return rows


def read_entry(file: Path, *entry: str) -> Any:
    """Read an entry of a file.

    Parameters
    ----------
    file
        Of JSON, without a digest of its own.
    entry
        Its key, or the keys on the way to it from the outside in.

    Raises
    ------
    FileNotFoundError
        Where there is no file.
    DamagedFileError
        Where it cannot be read, or has no such entry.
    """
    return _entry(file, read_plain_json(file), entry)


def read_window_losses(file: Path, *stage: str) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """Read the losses (N,) of test windows, nats a token, and the number of the document group of each (N,).

    Parameters
    ----------
    file
        As for `read_entry`.
    stage
        Whose losses they are, where a file has those of several.

    Raises
    ------
    FileNotFoundError, DamagedFileError
        As `read_entry`; the latter also where they are not one finite loss and one group a window.
    """
    stored = read_plain_json(file)
    found = (_entry(file, stored, ("window_losses", *stage)), _entry(file, stored, ("window_groups",)))
    try:
        losses, groups = np.asarray(found[0], dtype=np.float64), np.asarray(found[1], dtype=np.int64)
    except (TypeError, ValueError) as error:
        raise DamagedFileError(f"{file} is damaged: its losses and document groups are no numbers") from error
    if losses.ndim != 1 or losses.shape != groups.shape or not losses.size:
        raise DamagedFileError(
            f"{file} is damaged: its losses have the shape {losses.shape}, and their document groups {groups.shape}"
        )
    if not np.isfinite(losses).all():
        raise DamagedFileError(f"{file} is damaged: one of its losses is not finite")
    return losses, groups


def _entry(file: Path, stored: Any, entry: tuple[str, ...]) -> Any:
    for key in entry:
        if not isinstance(stored, dict) or key not in stored:
            raise DamagedFileError(f"{file} is damaged: it has no {_words(entry)}")
        stored = stored[key]
    return stored


def _words(entry: tuple[str, ...]) -> str:
    """Name an entry by the keys on the way to it."""
    return " > ".join(entry)
