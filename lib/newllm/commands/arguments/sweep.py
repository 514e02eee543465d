"""What ``newllm sweep`` takes."""

import argparse
import importlib.util

from newllm.commands.arguments.assignments import add_assignments
from newllm.commands.shared import check_outputs, read_assignments
from newllm.config.errors import ParameterError
from newllm.config.profiles import available_sweeps, sweep_path
from newllm.config.workers import STARTED
from newllm.wording import did_you_mean

SUMMARY = "train every trial of a grid and show the table of the results"

EXAMPLES = """\
newllm sweep learning_rates --dry-run
newllm sweep sotu -p "arm=[pythia, mla]" -p "seed=[0]" --processes 2
newllm sweep mine.yaml
newllm sweep stdlib --on tcp://10.0.0.7:8786
newllm sweep stdlib --on slurm --processes 16 --dry-run"""

WHEN_INTERRUPTED = "finished trials are kept; the same command goes on with the others, from their last checkpoints"


def add(parser: argparse.ArgumentParser) -> None:
    """Add the arguments."""
    parser.add_argument("sweep", help=f"a YAML file, or one of {', '.join(available_sweeps())}")
    add_assignments(parser, "replace a parameter, the profile, or the values of an axis")
    parser.add_argument("--processes", type=int, help="trials trained side by side, or SLURM's jobs (1)")
    parser.add_argument(
        "--on",
        metavar="WHERE",
        help="run the trials on Dask's workers: local (started here), the address of a scheduler, or slurm",
    )
    parser.add_argument(
        "--dry-run", action="store_true", help="check everything, list the trials and how long they take, train nothing"
    )


def check(options: argparse.Namespace) -> None:
    """Refuse a sweep that is not there, assignments of another form, and a place where nothing can run."""
    if options.processes is not None and options.processes < 1:
        raise ParameterError(f"--processes is {options.processes}, but it must be 1 or more.")
    if options.on is not None:
        _check_place(options.on, options.processes)
    sweep_path(options.sweep)
    read_assignments(options.parameters)
    check_outputs()


def _check_place(where: str, processes: int | None) -> None:
    is_address = ":" in where
    if not is_address and where not in STARTED:
        raise ParameterError(
            f"--on is {where!r}, but it must be {' or '.join(STARTED)}, or the address of a Dask scheduler, such as "
            f"tcp://10.0.0.7:8786{did_you_mean(where, STARTED)}."
        )
    if is_address and processes is not None:
        raise ParameterError("--processes is not for a scheduler that runs already: it has the workers that it has.")
    missing = [package for package in ("distributed", "dask_jobqueue") if importlib.util.find_spec(package) is None]
    if missing:
        raise ParameterError("--on needs Dask, which is not installed: pip install 'newllm[scale]'.")
