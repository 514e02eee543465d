"""The command ``newllm``: its parser, put together from the commands, and what it shows in a terminal."""

import argparse
import logging
import re
import sys
from collections.abc import Sequence

from newllm.commands import compare_parameters, evaluate, leaderboard, models, publish, refresh, run, sweep

COMMANDS = (run, sweep, leaderboard, compare_parameters, evaluate, models, refresh, publish)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit status: 0 done, 1 a notebook failed, 2 nothing could be started."""
    options = _parser().parse_args(arguments)
    _log_to_the_terminal()
    status: int = options.command(options)
    return status


def _log_to_the_terminal() -> None:
    """Show the library's messages, and through papermill those of the notebook."""
    handler = logging.StreamHandler(sys.stdout)
    handler.setFormatter(logging.Formatter("%(message)s"))
    for name in ("newllm", "papermill"):
        named = logging.getLogger(name)
        named.handlers = [handler]
        named.setLevel(logging.INFO)
        named.propagate = False
    # papermill says when a cell begins and ends, and shows a progress bar once, at its start; of a dead kernel the
    # command says more.
    noise = re.compile(r"Executing (Cell|notebook)|Ending Cell|Kernel died|(Input|Output) Notebook:|\s*(0%\|.*)?$")
    logging.getLogger("papermill").addFilter(lambda message: not noise.match(message.getMessage()))
    logging.getLogger("papermill.translators").setLevel(logging.ERROR)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="newllm", description="Run the notebooks of newllm.")
    commands = parser.add_subparsers(required=True, metavar="command")
    for command in COMMANDS:
        command.add(commands)
    return parser


if __name__ == "__main__":
    sys.exit(main())
