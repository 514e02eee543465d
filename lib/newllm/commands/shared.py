"""What several commands need: parameters read from the command line, notebooks by number."""

import json
from collections.abc import Sequence
from pathlib import Path

from newllm.config.errors import ParameterError, nearest
from newllm.config.notebooks import NOTEBOOKS
from newllm.config.text_files import matching_files
from newllm.config.values import read_scalar
from newllm.files import outputs_folder, project_root, refuse_unwritable


def notebooks_folder() -> Path:
    """Return where the notebooks are."""
    return project_root() / "notebooks"


def notebook_path(name: str) -> Path:
    """Return where a notebook is, given its full name."""
    return notebooks_folder() / f"{name}.ipynb"


def available_notebooks() -> list[str]:
    """Return the names of the notebooks that have parameters, in their order."""
    return [name for name in sorted(NOTEBOOKS) if notebook_path(name).is_file()]


def notebook_title(name: str) -> str:
    """Return the heading of a notebook, without its number: the question that it asks."""
    cells = json.loads(notebook_path(name).read_text(encoding="utf-8"))["cells"]
    return "".join(cells[0]["source"]).splitlines()[0].lstrip("# 0123456789")


def full_name(name: str) -> str:
    """Return a notebook's name, given in full, by its number or by its path.

    Raises
    ------
    ParameterError
        If there is none.
    """
    path = Path(name)
    if path.suffix == ".ipynb":
        if path.exists() and path.resolve() != notebook_path(path.stem).resolve():
            raise ParameterError(f"{name} is not one of the project's notebooks: run a copy with `papermill` itself.")
        name = path.stem
    number = name.zfill(2) if name.isdecimal() else name
    matches = [notebook for notebook in available_notebooks() if notebook in (name, f"{number}_{notebook[3:]}")]
    if not matches:
        raise ParameterError(f"{name} is not one of the notebooks{nearest(name, available_notebooks())}")
    return matches[0]


def check_outputs(folder: Path | None = None) -> None:
    """Refuse a folder, or the one of all outputs, in which nothing can be made; it is left as it is, also if missing.

    Raises
    ------
    ParameterError
        Where nothing can be made there.
    """
    try:
        refuse_unwritable(folder or outputs_folder())
    except OSError as error:
        raise ParameterError(str(error)) from error


def refuse_missing_text(patterns: Sequence[str]) -> None:
    """Refuse text files that are not there, or are none."""
    try:
        for pattern in patterns:
            matching_files(pattern)
    except (OSError, ValueError) as error:
        raise ParameterError(str(error)) from error


def read_assignments(assignments: Sequence[str], option: str = "-p") -> dict[str, str | None]:
    """Take apart parameters given as ``key=value``; what a value means depends on its parameter's type.

    Parameters
    ----------
    assignments
        As they were given.
    option
        The option that they were given with.

    Returns
    -------
    dict
        The texts by name; None for ``null`` and for nothing, which leave what the profile says.

    Raises
    ------
    ParameterError
        If one has another form, or a key is given twice.
    """
    given: dict[str, str | None] = {}
    for assignment in assignments:
        key, equals, value = (part.strip() for part in assignment.partition("="))
        if not (key and equals):
            raise ParameterError(f"{option} {assignment} is not of the form {option} key=value.")
        if key in given:
            raise ParameterError(f"{key} is given twice: {option} {key}={given[key]} and {option} {key}={value}.")
        given[key] = None if read_scalar(value) is None else value
    return given
