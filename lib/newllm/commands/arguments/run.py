"""What ``newllm run`` takes."""

import argparse
from collections.abc import Mapping
from typing import Any

from newllm.commands.arguments.assignments import add_assignments
from newllm.commands.shared import check_outputs, full_name, read_assignments, refuse_missing_text
from newllm.config.errors import ParameterError
from newllm.config.groups import ComparisonParameters, DataParameters, RunParameters
from newllm.config.methods import CHECKPOINT_PREFIX, method_names, method_of
from newllm.config.notebooks import NOTEBOOKS
from newllm.config.profiles import SHOWN, load_parameters, notebooks_of, profiles, refuse_unknown
from newllm.wording import did_you_mean

SUMMARY = "execute notebooks and show the table of their results"

EXAMPLES = """\
newllm run 02
newllm run 02 -p "arms=[pythia, mla@kv_dim=64]" -p "seeds=[0, 1, 2]" -p samples=500
newllm run all --profile smoke"""

ALL = "all"

WHEN_INTERRUPTED = "what was finished is kept; the same command goes on from the last checkpoint"


def add(parser: argparse.ArgumentParser) -> None:
    """Add the arguments."""
    parser.add_argument(
        "notebooks",
        nargs="*",
        help="numbers, names or paths, such as 02 or 02_main_training, or all; their list is shown if none",
    )
    parser.add_argument("--profile", default=SHOWN, choices=profiles(), help=f"whose parameters ({SHOWN})")
    add_assignments(parser, "replace a parameter")
    parser.add_argument("--rerun", action="store_true", help="delete what is finished and run it again")


def check(options: argparse.Namespace) -> None:
    """Refuse unknown notebooks, parameters and models, and impossible values."""
    check_planned(options)


def check_planned(options: argparse.Namespace) -> None:
    """Refuse what the runs that are asked for cannot be."""
    for parameters in planned_runs(options):
        check_outputs(parameters.output_folder)
        if isinstance(parameters, DataParameters):
            refuse_missing_text(parameters.text_files or ())
        if isinstance(parameters, ComparisonParameters):
            for arm in parameters.arms:
                refuse_unknown_model(arm)


def refuse_unknown_model(arm: str) -> None:
    """Refuse an arm of no model; what else an arm may be is known where models are imported, which takes seconds."""
    if not arm.startswith(CHECKPOINT_PREFIX) and method_of(arm, method_names()) is None:
        hint = did_you_mean(arm.partition("@")[0].strip().partition("-")[0], method_names())
        raise ParameterError(f"arm {arm!r} names no model{hint}: there are {', '.join(method_names())}.")


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
    names = notebooks_of(options.profile) if options.notebooks == [ALL] else options.notebooks
    notebooks = [full_name(name) for name in names]
    refuse_unknown(given, notebooks)
    return [
        load_parameters(
            notebook,
            options.profile,
            {key: value for key, value in given.items() if key in NOTEBOOKS[notebook].model_fields},
        )
        for notebook in dict.fromkeys(notebooks)
    ]
