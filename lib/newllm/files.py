"""How files are written: whole or not at all, and JSON without numbers that JSON does not have."""

import os
import tempfile
from pathlib import Path
from typing import Any

import pydantic_core


def to_json(value: Any) -> str:
    """Return strict, indented JSON of plain values, numpy numbers, paths and records; nan and infinity become null."""
    return pydantic_core.to_json(value, indent=2, inf_nan_mode="null", fallback=lambda item: item.tolist()).decode()


def write_atomically(path: Path, text: str) -> Path:
    """Write a text so that a reader, or a killed writer, finds the whole old file or the whole new one."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.NamedTemporaryFile("w", dir=path.parent, prefix=".", encoding="utf-8", delete=False) as file:
        try:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
            Path(file.name).replace(path)
        except BaseException:
            Path(file.name).unlink(missing_ok=True)
            raise
    return path
