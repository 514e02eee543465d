"""``newllm publish``: a comparison taken among the reference results."""

import argparse
import logging
from pathlib import Path
from typing import Any

from newllm.reference import publish, reference_folder

logger = logging.getLogger(__name__)


def add(commands: Any) -> None:
    """Add the command to the parser's."""
    published = commands.add_parser("publish", help="put a comparison's records into outputs/reference and the README")
    published.add_argument("folder", type=Path, help="the run folder of a finished comparison")
    published.set_defaults(command=publish_command)


def publish_command(options: argparse.Namespace) -> int:
    """Do ``newllm publish``: take a comparison's records among the reference results, with the README's table."""
    try:
        publish(options.folder)
    except (ValueError, RuntimeError) as error:
        logger.error("%s", error)
        return 2
    logger.info("The records are in %s; the README shows them.", reference_folder())
    return 0
