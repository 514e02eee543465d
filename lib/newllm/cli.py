"""The command ``newllm``: its parser, put together from the commands' arguments, and what it shows in a terminal."""

import argparse
import importlib
import logging
import sys
import tomllib
from collections.abc import Sequence
from types import ModuleType
from typing import Any

import shtab

from newllm.commands.arguments import (
    compare_parameters,
    evaluate,
    lab,
    leaderboard,
    models,
    publish,
    refresh,
    retrofit,
    run,
    start,
    sweep,
    train,
)
from newllm.commands.interruption import Interruption
from newllm.commands.offered import as_called_here
from newllm.config.errors import ParameterError
from newllm.files import project_root

# Not of __name__, which is "__main__" under `python -m`.
logger = logging.getLogger("newllm.cli")

COMMANDS: tuple[ModuleType, ...] = (
    start,
    run,
    lab,
    train,
    sweep,
    leaderboard,
    compare_parameters,
    evaluate,
    retrofit,
    models,
    refresh,
    publish,
)

OVERVIEW = """\
trains, verifies and compares language models that keep a smaller KV cache.
  newllm start               minutes: three models trained on this machine, on a page that explains them
  newllm run                 the notebooks by their questions; newllm run 02 runs one, newllm lab opens all
  newllm leaderboard         every result; newllm models measures every model, newllm evaluate asks trained ones more
  newllm --help, newllm run --help, ...   all commands, with examples of each"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line.

    Returns
    -------
    int
        The exit status: 0 done, 1 something failed, 2 nothing could be started, 130 interrupted.
    """
    _log_to_the_terminal()
    options = _parser().parse_args(arguments)
    if options.declared is None:
        called = as_called_here("newllm")
        logger.info("newllm%s %s", "" if called == "newllm" else f" (here: {called})", OVERVIEW)
        return 0
    interruption = Interruption(options.declared.WHEN_INTERRUPTED)
    try:
        with interruption.watched():
            options.declared.check(options)
            # The work is imported only now: it takes seconds, which neither --help nor a refusal should.
            work = importlib.import_module(f"newllm.commands.{_module_name(options.declared)}")
            status: int = work.main(options)
    except ParameterError as error:
        logger.error("%s", error)
        return 2
    except KeyboardInterrupt:
        return interruption.say()
    return status


def _log_to_the_terminal() -> None:
    """Show the library's messages, and papermill's errors."""
    for name, level in (("newllm", logging.INFO), ("papermill", logging.ERROR)):
        named = logging.getLogger(name)
        named.handlers = [_ToTheTerminal()]
        named.setLevel(level)
        named.propagate = False
    # Of a dead kernel the command says more.
    logging.getLogger("papermill").addFilter(lambda message: not message.getMessage().startswith("Kernel died"))


class _ToTheTerminal(logging.StreamHandler[Any]):
    """Writes to standard output as it is at the time: a live view puts something of its own in its place."""

    def __init__(self) -> None:
        logging.Handler.__init__(self)

    @property
    def stream(self) -> Any:
        """Where to write."""
        return sys.stdout


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="newllm", description="Train, verify and compare language models that keep a smaller KV cache."
    )
    project = tomllib.loads((project_root() / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    parser.add_argument("--version", action="version", version=f"newllm {project['version']}")
    shtab.add_argument_to(parser, "--print-completion", help="show what completes newllm in a shell, and exit")
    parser.set_defaults(declared=None)
    commands = parser.add_subparsers(metavar="command")
    for declared in COMMANDS:
        added = commands.add_parser(
            _module_name(declared).replace("_", "-"),
            help=declared.SUMMARY,
            description=f"{declared.SUMMARY[0].upper()}{declared.SUMMARY[1:]}.",
            epilog=f"examples:\n  {'  '.join(declared.EXAMPLES.splitlines(keepends=True))}",
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )
        declared.add(added)
        added.set_defaults(declared=declared)
    return parser


def _module_name(declared: ModuleType) -> str:
    return declared.__name__.rpartition(".")[2]


if __name__ == "__main__":
    sys.exit(main())
