"""``newllm refresh``: the committed notebooks executed in place."""

import argparse
import logging
import time

from newllm.commands.shared import available_notebooks, full_name, notebook_path
from newllm.notebook.refresh import refresh
from newllm.wording import describe_seconds

logger = logging.getLogger(__name__)


def main(options: argparse.Namespace) -> int:
    """Do ``newllm refresh``: execute the notebooks where they are, so that they can be read without running."""
    for name in map(full_name, options.notebooks or available_notebooks()):
        started = time.monotonic()
        refresh(notebook_path(name))
        logger.info("%s is refreshed, in %s.", name, describe_seconds(time.monotonic() - started))
    return 0
