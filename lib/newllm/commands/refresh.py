"""``newllm refresh``: the committed notebooks executed in place."""

import argparse
import logging
import time
from typing import Any

from newllm.commands.shared import available_notebooks, full_name, notebook_path
from newllm.config.errors import ParameterError
from newllm.notebook.refresh import refresh
from newllm.wording import describe_seconds

logger = logging.getLogger(__name__)


def add(commands: Any) -> None:
    """Add the command to the parser's."""
    refreshed = commands.add_parser("refresh", help="execute the committed notebooks in place, with pictures (smoke)")
    refreshed.add_argument("notebooks", nargs="*", help="numbers or names; all of them if none")
    refreshed.set_defaults(command=refresh_command)


def refresh_command(options: argparse.Namespace) -> int:
    """Do ``newllm refresh``: execute the notebooks where they are, so that they can be read without running."""
    try:
        names = [full_name(name) for name in options.notebooks or available_notebooks()]
    except ParameterError as error:
        logger.error("%s", error)
        return 2
    for name in names:
        started = time.monotonic()
        refresh(notebook_path(name))
        logger.info("%s is refreshed, in %s.", name, describe_seconds(time.monotonic() - started))
    return 0
