"""``newllm compare-parameters``: in what two runs differ."""

import argparse
import logging
from pathlib import Path
from typing import Any

from newllm.runs.differences import parameter_differences
from newllm.runs.folder import RunError

logger = logging.getLogger(__name__)


def add(commands: Any) -> None:
    """Add the command to the parser's."""
    compared = commands.add_parser("compare-parameters", help="show the parameters in which two runs differ")
    compared.add_argument("first", type=Path, help="a folder with a record, or of a run")
    compared.add_argument("second", type=Path, help="another one")
    compared.set_defaults(command=compare_parameters_command)


def compare_parameters_command(options: argparse.Namespace) -> int:
    """Do ``newllm compare-parameters``: show what differs."""
    try:
        differences = parameter_differences(options.first, options.second)
    except RunError as error:
        logger.error("%s", error)
        return 2
    if differences.empty:
        logger.info("They were run with the same parameters, commit and versions.")
    else:
        logger.info("%s", differences.fillna("").to_string(index=False))
    return 0
