"""How files are written: whole or not at all, and JSON without numbers that JSON does not have."""

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
