"""What ``newllm lab`` takes."""

import argparse

from newllm.commands.shared import check_outputs
from newllm.config.errors import ParameterError

SUMMARY = "open copies of the notebooks in JupyterLab, so that the clone stays as it is"

EXAMPLES = """\
newllm lab
newllm lab --port 8899 --no-browser"""

WHEN_INTERRUPTED = "your copies of the notebooks are kept"


def add(parser: argparse.ArgumentParser) -> None:
    """Add the arguments."""
    parser.add_argument("--port", type=int, help="where JupyterLab listens (8888, or the next free one)")
    parser.add_argument("--no-browser", dest="browser", action="store_false", help="show its address only")


def check(options: argparse.Namespace) -> None:
    """Refuse a port that there is not."""
    if options.port is not None and not 0 < options.port < 65536:
        raise ParameterError(f"--port is {options.port}, but it must be from 1 to 65535.")
    check_outputs()
