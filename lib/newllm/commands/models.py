"""``newllm models``: every model in one table, measured."""

import argparse
import logging
from pathlib import Path
from typing import Any

from newllm.commands.shared import as_text
from newllm.evaluation.survey import survey
from newllm.files import write_atomically
from newllm.models import sizes
from newllm.runs.provenance import Provenance

logger = logging.getLogger(__name__)


def add(commands: Any) -> None:
    """Add the command to the parser's."""
    models = commands.add_parser("models", help="one table of all models: size, cache, certificate, speed of decoding")
    models.add_argument("models", nargs="*", help="names, such as mla; all of them if none")
    models.add_argument("--size", default="70m", help="one of " + ", ".join(sizes()) + " (70m)")
    models.add_argument(
        "--contexts",
        nargs="*",
        type=int,
        default=[1024, 8192],
        metavar="TOKENS",
        help="lengths of context at which decoding is timed (1024 8192); nothing after it leaves timing out",
    )
    models.add_argument("--steps", type=int, default=16, help="timed tokens for each model and context (16)")
    models.add_argument("--output", type=Path, help="a CSV file to write the table to, with commit and machine")
    models.set_defaults(command=models_command)


def models_command(options: argparse.Namespace) -> int:
    """Do ``newllm models``: build, count, certify and time models, and show them in one table."""
    try:
        table = survey(options.models or None, options.size, contexts=options.contexts, steps=options.steps)
    except ValueError as error:
        logger.error("%s", error)
        return 2
    if options.output is not None:
        origin = Provenance.collect()
        stated = table.assign(size=options.size, commit=origin.commit, machine=str(origin.machine))
        write_atomically(options.output, stated.to_csv(index=False))
    logger.info("\n%s, float32, random weights\n%s", options.size, as_text(table))
    return 0 if table["certificate"].all() else 1
