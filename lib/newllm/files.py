"""How files are written (whole or not at all; JSON without numbers that JSON does not have), and where they are."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pydantic_core


def to_json(value: Any) -> str:
    """Return strict, indented JSON of plain values, numpy numbers, paths and records; nan and infinity become null."""
    return pydantic_core.to_json(value, indent=2, inf_nan_mode="null", fallback=lambda item: item.tolist()).decode()


@contextmanager
def atomic_file(path: Path) -> Iterator[Path]:
    """Give a temporary path to write to; it becomes ``path`` when the block ends, whole or not at all.

    Parameters
    ----------
    path
        Where the file shall stand. Its folder is made where it is missing.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    # Not tempfile: its files can be read by their owner alone, and outputs may lie in a shared folder.
    temporary = path.with_name(f".{path.stem}-{os.getpid()}{path.suffix}")
    try:
        yield temporary
        with temporary.open("rb") as file:
            os.fsync(file.fileno())
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def write_atomically(path: Path, text: str) -> Path:
    """Write a text so that a reader, or a killed writer, finds the whole old file or the whole new one."""
    with atomic_file(path) as temporary:
        temporary.write_text(text, encoding="utf-8")
    return path


def project_root() -> Path:
    """Return the clone this package runs from: the folder that holds ``lib``, ``params`` and ``notebooks``.

    Raises
    ------
    FileNotFoundError
        If the package runs from somewhere else, such as a wheel without the notebooks.
    """
    root = Path(__file__).resolve().parents[2]
    if not (root / "params").is_dir():
        raise FileNotFoundError(
            f"newllm runs from {root}, which is not a clone of the project; clone it and install it with `make lab`."
        )
    return root


def outputs_folder() -> Path:
    """Return the folder that holds the run folders: ``NEWLLM_OUTPUTS``, or ``outputs`` in the clone."""
    return _moved_by("NEWLLM_OUTPUTS", "outputs")


def reference_folder() -> Path:
    """Return the folder that holds the committed results."""
    return project_root() / "outputs" / "reference"


def cache_folder() -> Path:
    """Return the folder that holds prepared data, safe to delete: ``NEWLLM_CACHE``, or ``outputs/cache``."""
    return _moved_by("NEWLLM_CACHE", "outputs/cache")


def _moved_by(variable: str, default: str) -> Path:
    moved = os.environ.get(variable)
    return Path(moved).expanduser().resolve() if moved else project_root() / default
