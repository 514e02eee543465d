"""``newllm models``: every model in one table, measured."""

import argparse
import logging

import torch
from tqdm.contrib.logging import logging_redirect_tqdm

from newllm.commands.terminal_table import as_text
from newllm.evaluation.survey import survey
from newllm.experiments.planning import check_room_for_caches
from newllm.files import write_atomically
from newllm.models import names
from newllm.runs.provenance import Provenance

logger = logging.getLogger(__name__)


def main(options: argparse.Namespace) -> int:
    """Do ``newllm models``: build, count, certify and time models, and show them in one table."""
    try:
        check_room_for_caches(options.models or names(), options.size, options.contexts)
        with logging_redirect_tqdm([logging.getLogger("newllm")]):
            table = survey(options.models or None, options.size, contexts=options.contexts, steps=options.steps)
    except ValueError as error:
        logger.error("%s", error)
        return 2
    if options.output is not None:
        origin = Provenance.collect()
        threads = torch.get_num_threads()
        stated = table.assign(size=options.size, threads=threads, commit=origin.commit, machine=str(origin.machine))
        write_atomically(options.output, stated.to_csv(index=False))
    words = {f"tokens_per_second_{context}": f"decoded tokens/s at {context:,}" for context in options.contexts}
    logger.info("\n%s, float32, random weights\n%s", options.size, as_text(table.rename(columns=words)))
    return 0 if table["certificate"].all() else 1
