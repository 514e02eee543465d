"""A notebook's parameters, read where it runs."""

import ast
from collections.abc import Mapping
from typing import Any

from newllm.config.errors import ParameterError
from newllm.config.groups import RunParameters
from newllm.config.profiles import load_parameters
from newllm.config.values import write_value
from newllm.experiments.planning import check_before_work
from newllm.notebook.first_cell import executed_cells


def from_notebook(notebook: str, namespace: Mapping[str, Any]) -> RunParameters:
    """Read a notebook's parameters where it runs: ``parameters = config.from_notebook("02_main_training", globals())``.

    The names come from the source of the cells that were run last: the parameters cell (the one that assigns
    ``profile``) and, under papermill, the cell that papermill puts after it. So a mistyped name is an error wherever it
    was typed, and a variable of a later cell is never taken for a parameter.

    Parameters
    ----------
    notebook
        A key of `NOTEBOOKS`.
    namespace
        The notebook's ``globals()``.

    Raises
    ------
    ParameterError
        As `load_parameters` and `check_before_work`, and where the cells before were not run.
    """
    names: set[str] = set()
    cells = [(source, _assigned_names(source)) for source in executed_cells]
    for is_wanted in (
        lambda source, assigned: "profile" in assigned,
        lambda source, assigned: source.startswith("# Parameters\n"),  # what papermill writes above its cell
    ):
        names |= next((assigned for source, assigned in reversed(cells) if is_wanted(source, assigned)), set())
    if "profile" not in names:
        raise ParameterError(
            "profile is not given; run the first cell and the parameters cell, which assigns it, before this one "
            "(a script calls load_parameters)."
        )
    given = {name: namespace.get(name) for name in sorted(names)}
    parameters = load_parameters(notebook, str(given.pop("profile")), given)
    check_before_work(parameters)
    return parameters


def _assigned_names(source: str) -> set[str]:
    """Return the names a cell assigns, or none where the cell does anything but assign."""
    try:
        statements = ast.parse(source).body
    except SyntaxError:
        return set()
    names = set()
    for statement in statements:
        match statement:
            case ast.Assign(targets=[ast.Name(id=name)]) | ast.AnnAssign(target=ast.Name(id=name)):
                names.add(name)
            case ast.Expr(value=ast.Constant()):  # a string used as a comment
                pass
            case _:
                return set()
    return names


# What a reader has to know before the first sentence of results.
TOLD = ("size", "source", "samples", "seq_length", "epochs", "lr", "arms", "seeds")


def headline(parameters: RunParameters) -> str:
    """Say in a line what a notebook runs with; all of its parameters are in ``parameters.yaml`` of the run folder."""
    given = parameters.model_dump(mode="json")
    said = [f"{name} {write_value(given[name])}" for name in TOLD if name in given]
    return "; ".join([f"profile {parameters.profile}", *said])
