"""What ``newllm models`` takes."""

import argparse
from pathlib import Path
from typing import get_args

from newllm.commands.shared import check_outputs
from newllm.config.errors import ParameterError, nearest
from newllm.config.fields import SizeName
from newllm.config.methods import method_names

SUMMARY = "one table of all models: size, cache, certificate, speed of decoding"

EXAMPLES = """\
newllm models --size mini --contexts
newllm models pythia mla mqa --size 70m --contexts 1024 8192"""

WHEN_INTERRUPTED = "nothing was written; the same command begins again, and fewer models or --contexts make it short"


def add(parser: argparse.ArgumentParser) -> None:
    """Add the arguments."""
    parser.add_argument("models", nargs="*", help="names, such as mla; all of them if none")
    parser.add_argument("--size", default="70m", choices=get_args(SizeName), help="of all models (70m)")
    parser.add_argument(
        "--contexts",
        nargs="*",
        type=int,
        default=[1024, 8192],
        metavar="TOKENS",
        help="lengths of context at which decoding is timed (1024 8192); nothing after it leaves timing out",
    )
    parser.add_argument("--steps", type=int, default=16, help="timed tokens for each model and context (16)")
    parser.add_argument(
        "--output", type=Path, help="a CSV file to write the table to, with threads, commit and machine"
    )


def check(options: argparse.Namespace) -> None:
    """Refuse models that there are not, and lengths that none has."""
    for name in options.models:
        if name not in method_names():
            raise ParameterError(f"{name} is not a model{nearest(name, method_names())}")
    for option, values in (("--contexts", options.contexts), ("--steps", [options.steps])):
        for value in values:
            if value < 1:
                raise ParameterError(f"{option} is {value}, but it must be 1 or more.")
    if options.output is not None:
        if options.output.exists() and not options.output.is_file():
            raise ParameterError(f"--output is {options.output}, which is no file: name a CSV file.")
        check_outputs(options.output.parent)
