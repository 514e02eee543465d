"""What several commands need: parameters read from the command line, notebooks by number, tables as text."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml

from newllm.config.errors import ParameterError
from newllm.config.notebooks import NOTEBOOKS
from newllm.files import project_root


def notebooks_folder() -> Path:
    """Return where the notebooks are."""
    return project_root() / "notebooks"


def notebook_path(name: str) -> Path:
    """Return where a notebook is, given its full name."""
    return notebooks_folder() / f"{name}.ipynb"


def available_notebooks() -> list[str]:
    """Return the names of the notebooks that have parameters, in their order."""
    return [name for name in sorted(NOTEBOOKS) if notebook_path(name).is_file()]


def full_name(name: str) -> str:
    """Return a notebook's name, given in full or by its number.

    Raises
    ------
    ParameterError
        If there is none.
    """
    matches = [notebook for notebook in available_notebooks() if notebook == name or notebook.startswith(f"{name}_")]
    if not matches:
        raise ParameterError(f"{name} is not one of the notebooks: {', '.join(available_notebooks())}.")
    return matches[0]


def read_assignments(assignments: Sequence[str]) -> dict[str, Any]:
    """Read parameters given as ``key=value``; the value is YAML, so ``[0, 1]`` is a list.

    Raises
    ------
    ParameterError
        If one has another form.
    """
    given = {}
    for assignment in assignments:
        key, equals, value = assignment.partition("=")
        if not equals:
            raise ParameterError(f"-p {assignment} is not of the form -p key=value.")
        try:
            given[key.strip()] = yaml.safe_load(value)
        except yaml.YAMLError:
            raise ParameterError(
                f"{key} is {value!r}, which is not a number, a word or a list such as [a, b]."
            ) from None
    return given


def as_text(table: Any) -> str:
    """Write a table for a terminal, each column in its usual form."""
    formats = {
        "parameters": "{:,.0f}",
        "KV bytes/token": "{:,.0f}",
        "PPL": "{:.2f}",
        "±": "{:.2f}",
        "bits/byte": "{:.3f}",
        "values_per_token": "{:,.1f}",
        "bytes_per_token": "{:,.1f}",
        "state_bytes": "{:,.0f}",
        "saved": "{:.2%}",
        "largest_leak": "{:.0e}",
        "cache_error": "{:.0e}",
        "validation_loss": "{:.4f}",
    }
    shown = table.copy()
    for column in table:
        pattern = "{:.1f}" if column.startswith("tokens_per_second") else formats.get(column, "{}")
        shown[column] = [pattern.format(value) if value == value else "" for value in table[column]]
    return shown.to_string(index=False)
