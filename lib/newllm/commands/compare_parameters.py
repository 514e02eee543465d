"""``newllm compare-parameters``: in what two runs differ."""

import argparse
import logging

from newllm.runs.differences import parameter_differences
from newllm.runs.lock import RunError

logger = logging.getLogger(__name__)


def main(options: argparse.Namespace) -> int:
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
