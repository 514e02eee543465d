"""What ``newllm run`` takes."""

import argparse
from collections.abc import Mapping
from typing import Any

from newllm.commands.shared import available_notebooks, full_name, read_assignments
from newllm.config.groups import RunParameters
from newllm.config.notebooks import NOTEBOOKS
from newllm.config.profiles import load_parameters, profiles, refuse_unknown

SUMMARY = "execute notebooks and show the table of their results"

EXAMPLES = """\
newllm run 02 --profile cpu
newllm run 02 -p "arms=[pythia, mla@kv_dim=64]" -p "seeds=[0, 1, 2]" -p samples=500
newllm run --profile smoke"""

WHEN_INTERRUPTED = "what was finished is kept; the same command goes on from there"


def add(parser: argparse.ArgumentParser) -> None:
    """Add the arguments."""
    parser.add_argument(
        "notebooks", nargs="*", help="numbers, names or paths, such as 02 or 02_main_training; all of them if none"
    )
    parser.add_argument("--profile", default="smoke", choices=profiles(), help="whose parameters (smoke)")
    parser.add_argument(
        "-p",
        dest="parameters",
        action="append",
        default=[],
        metavar="key=value",
        help="replace a parameter; repeatable",
    )
    parser.add_argument("--rerun", action="store_true", help="delete what is finished and run it again")


def check(options: argparse.Namespace) -> None:
    """Refuse unknown notebooks and parameters, and impossible values."""
    planned_runs(options)


def given_parameters(options: argparse.Namespace) -> dict[str, Any]:
    """Return what was given beside the profile, by name."""
    given: dict[str, Any] = dict(read_assignments(options.parameters))
    return given | {"rerun": True} if options.rerun else given


def planned_runs(options: argparse.Namespace) -> list[RunParameters]:
    """Return the checked parameters of each notebook; each one takes those of the given that it knows.

    Raises
    ------
    ParameterError
        If a notebook is unknown, no notebook knows a parameter, or a value is impossible.
    """
    given: Mapping[str, Any] = given_parameters(options)
    notebooks = [full_name(name) for name in options.notebooks or available_notebooks()]
    refuse_unknown(given, notebooks)
    return [
        load_parameters(
            notebook,
            options.profile,
            {key: value for key, value in given.items() if key in NOTEBOOKS[notebook].model_fields},
        )
        for notebook in dict.fromkeys(notebooks)
    ]
