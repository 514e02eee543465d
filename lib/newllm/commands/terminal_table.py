"""Tables as a terminal has room for them."""

import shutil
import sys

import pandas as pd

from newllm.notebook.tables import show


def terminal_width() -> int | None:
    """Return the characters of a line of the terminal; None where the output goes somewhere else."""
    return shutil.get_terminal_size().columns if sys.stdout.isatty() else None


def as_text(table: pd.DataFrame) -> str:
    """Write a table as notebooks show it, its columns below one another where a line has no room for all."""
    return show(table).text(terminal_width())
