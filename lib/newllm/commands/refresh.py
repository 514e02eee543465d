"""``newllm refresh``: the committed notebooks executed in place."""

import argparse
import logging
import time

from nbclient.exceptions import CellExecutionError

from newllm.commands.shared import available_notebooks, full_name, notebook_path
from newllm.notebook.kernel import KernelDiedError
from newllm.notebook.refresh import refresh
from newllm.wording import describe_seconds

logger = logging.getLogger(__name__)


def main(options: argparse.Namespace) -> int:
    """Do ``newllm refresh``: execute the notebooks where they are, so that they can be read without running."""
    failed = []
    for name in map(full_name, options.notebooks or available_notebooks()):
        started = time.monotonic()
        try:
            refresh(notebook_path(name))
        except (CellExecutionError, KernelDiedError) as error:
            failed.append(name)
            reason = f"{error.ename}: {error.evalue}" if isinstance(error, CellExecutionError) else error
            logger.error("%s is left as it was: %s", name, reason)
        else:
            logger.info("%s is refreshed, in %s.", name, describe_seconds(time.monotonic() - started))
    return 1 if failed else 0
