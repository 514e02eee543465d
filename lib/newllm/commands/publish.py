"""``newllm publish``: a comparison taken among the reference results."""

import argparse
import logging
from pathlib import Path
from typing import Any

from newllm.files import reference_folder
from newllm.publication.document_tables import renew_tables
from newllm.publication.reference import publish

logger = logging.getLogger(__name__)


def add(commands: Any) -> None:
    """Add the command to the parser's."""
    published = commands.add_parser("publish", help="put a run's results into outputs/reference, README and RESULTS")
    published.add_argument(
        "folder",
        type=Path,
        nargs="?",
        help="folder of a finished run; without one the tables of README and RESULTS are renewed only",
    )
    published.set_defaults(command=publish_command)


def publish_command(options: argparse.Namespace) -> int:
    """Do ``newllm publish``: take a run's results among the reference results, and write the documents' tables."""
    try:
        if options.folder is not None:
            publish(options.folder)
        renew_tables()
    except (ValueError, RuntimeError) as error:
        logger.error("%s", error)
        return 2
    logger.info("The records are in %s; README and RESULTS show them.", reference_folder())
    return 0
