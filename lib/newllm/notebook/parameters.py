"""A notebook's parameters, read where it runs."""

import ast
from collections.abc import Mapping
from typing import Any

from newllm.config.errors import ParameterError
from newllm.config.groups import RunParameters
from newllm.config.profiles import load_parameters
from newllm.config.values import write_value
from newllm.experiments.idle import refuse_in_vain
from newllm.experiments.planning import check_before_work
from newllm.figures.arm_words import arm_in_words
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
        As `load_parameters`, `check_before_work` and `refuse_in_vain`, and where the cells before were not run.
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
    refuse_in_vain(parameters, given)
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
TOLD = ("size", "source", "samples", "seq_length", "epochs", "lr", "seeds")
MOST_NAMED = 8


def headline(parameters: RunParameters) -> str:
    """Say in a line what a notebook runs with; all of its parameters are in ``parameters.yaml`` of the run folder.

    Arms are named in words, on a line of their own; more than `MOST_NAMED` are counted, as a table names them.

    Parameters
    ----------
    parameters
        The notebook's.
    """
    given = parameters.model_dump(mode="json")
    said = [f"profile {parameters.profile}", *(f"{name} {write_value(given[name])}" for name in TOLD if name in given)]
    arms = given.get("arms") or []
    if len(arms) > MOST_NAMED:
        said.append(f"{len(arms)} arms")
    named = f"\narms: {' | '.join(map(arm_in_words, arms))}" if 0 < len(arms) <= MOST_NAMED else ""
    return "; ".join(said) + named
