"""``newllm publish``: a comparison taken among the reference results."""

import argparse
import logging
from pathlib import Path
from typing import Any

from newllm.files import write_atomically
from newllm.folders import project_root
from newllm.readme import with_tables
from newllm.reference import publish, reference_folder

logger = logging.getLogger(__name__)


def add(commands: Any) -> None:
    """Add the command to the parser's."""
    published = commands.add_parser("publish", help="put a run's results into outputs/reference and the README")
    published.add_argument(
        "folder",
        type=Path,
        nargs="?",
        help="folder of a finished run; without one the README's tables are renewed only",
    )
    published.set_defaults(command=publish_command)


def publish_command(options: argparse.Namespace) -> int:
    """Do ``newllm publish``: take a run's results among the reference results, and write the README's tables."""
    try:
        if options.folder is not None:
            publish(options.folder)
        readme = project_root() / "README.md"
        write_atomically(readme, with_tables(readme.read_text(encoding="utf-8")))
    except (ValueError, RuntimeError) as error:
        logger.error("%s", error)
        return 2
    logger.info("The records are in %s; the README shows them.", reference_folder())
    return 0
