"""The parameters cell of a notebook: every parameter with its type and meaning, as papermill's help shows them."""

from typing import Any

import nbformat

from newllm.config.notebooks import NOTEBOOKS

TAG = "parameters"
LONGEST_LINE = 120
TYPES = {"integer": "int", "number": "float", "boolean": "bool", "array": "list"}


def parameters_cell(notebook: str, profile: str) -> str:
    """Write the source of the cell: the profile, and each parameter as None, "as the profile says".

    Parameters
    ----------
    notebook
        A key of `newllm.config.notebooks.NOTEBOOKS`.
    profile
        The profile that the notebook begins with.
    """
    kind = NOTEBOOKS[notebook]
    schemas = kind.model_json_schema()["properties"]
    lines = [f'profile: str = "{profile}"  # {kind.model_fields["profile"].description}']
    lines += [
        # papermill's help leaves out a line with more than one sign of equality.
        _shortened(f"{name}: {_type(schemas[name])} = None  # {str(field.description).replace('=', ' ')}")
        for name, field in kind.model_fields.items()
        if name != "profile"
    ]
    return "\n".join(lines)


def renew_parameters(cells: list[nbformat.NotebookNode], notebook: str, profile: str) -> None:
    """Write the parameters cell of a notebook anew.

    Parameters
    ----------
    cells
        The notebook's; changed in place.
    notebook
        A key of `newllm.config.notebooks.NOTEBOOKS`.
    profile
        The profile that the notebook begins with.
    """
    for cell in cells:
        if TAG in cell.metadata.get("tags", []):
            cell.source = parameters_cell(notebook, profile)


def _type(schema: dict[str, Any]) -> str:
    """Return the type that papermill shows: what a value is where it is given."""
    for option in schema.get("anyOf", [schema]):
        if option.get("type") in TYPES:
            return TYPES[option["type"]]
    return "str"


def _shortened(line: str) -> str:
    return line if len(line) <= LONGEST_LINE else f"{line[: LONGEST_LINE - 3].rsplit(' ', 1)[0]}..."
