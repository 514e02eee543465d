"""What ``newllm publish`` takes."""

import argparse
from pathlib import Path

from newllm.config.errors import ParameterError

SUMMARY = "put a run's results into outputs/reference, README and RESULTS"

EXAMPLES = """\
newllm publish outputs/02_main_training/cpu-1234abcd
newllm publish outputs/sweeps/sotu --weights pythia mla
newllm publish"""

WHEN_INTERRUPTED = "run the same command again: it writes everything anew"


def add(parser: argparse.ArgumentParser) -> None:
    """Add the arguments."""
    parser.add_argument(
        "folder",
        type=Path,
        nargs="?",
        help="folder of a finished run; without one the tables of README and RESULTS are renewed only",
    )
    parser.add_argument(
        "--weights",
        nargs="+",
        default=[],
        metavar="ARM",
        help="arms whose models, of the lowest seed, are published too, in bfloat16 (30 MB in all)",
    )


def check(options: argparse.Namespace) -> None:
    """Refuse a folder that is not there, and arms of none."""
    if options.weights and options.folder is None:
        raise ParameterError("--weights names arms of a run, whose folder is not given.")
    if options.folder is not None and not options.folder.is_dir():
        raise ParameterError(f"{options.folder} is not a folder.")
