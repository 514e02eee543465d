"""What ``newllm compare-parameters`` takes."""

import argparse
from pathlib import Path

from newllm.config.errors import ParameterError

SUMMARY = "show the parameters in which two runs differ"

EXAMPLES = """\
newllm compare-parameters outputs/reference/sweeps/sotu/cpu-5f1d1fb3/{pythia,mla}-seed0"""

WHEN_INTERRUPTED = "nothing is lost; run the same command again"


def add(parser: argparse.ArgumentParser) -> None:
    """Add the arguments."""
    parser.add_argument("first", type=Path, help="a folder with a record, or of a run")
    parser.add_argument("second", type=Path, help="another one")


def check(options: argparse.Namespace) -> None:
    """Refuse folders that are not there."""
    for folder in (options.first, options.second):
        if not folder.exists():
            raise ParameterError(f"there is no {folder} (seen from {Path.cwd()}).")
