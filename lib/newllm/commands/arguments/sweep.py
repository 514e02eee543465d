"""What ``newllm sweep`` takes."""

import argparse

from newllm.commands.arguments.assignments import add_assignments
from newllm.commands.shared import read_assignments
from newllm.config.errors import ParameterError
from newllm.config.profiles import available_sweeps, sweep_path

SUMMARY = "train every trial of a grid and show the table of the results"

EXAMPLES = """\
newllm sweep learning_rates --dry-run
newllm sweep sotu -p "arm=[pythia, mla]" -p "seed=[0]" --processes 2
newllm sweep mine.yaml"""

WHEN_INTERRUPTED = "finished trials are kept; the same command goes on with the others"


def add(parser: argparse.ArgumentParser) -> None:
    """Add the arguments."""
    parser.add_argument("sweep", help=f"a YAML file, or one of {', '.join(available_sweeps())}")
    add_assignments(parser, "replace a parameter, the profile, or the values of an axis")
    parser.add_argument("--processes", type=int, default=1, help="trials trained side by side (1)")
    parser.add_argument("--dry-run", action="store_true", help="check everything, say how long it takes, train nothing")


def check(options: argparse.Namespace) -> None:
    """Refuse a sweep that is not there, and assignments of another form."""
    if options.processes < 1:
        raise ParameterError(f"--processes is {options.processes}, but it must be 1 or more.")
    sweep_path(options.sweep)
    read_assignments(options.parameters)
