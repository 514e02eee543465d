"""``newllm publish``: a comparison taken among the reference results."""

import argparse
import logging

from newllm.files import UnwritableError, reference_folder
from newllm.publication.document_tables import renew_tables
from newllm.publication.reference import publish

logger = logging.getLogger(__name__)


def main(options: argparse.Namespace) -> int:
    """Do ``newllm publish``: take a run's results among the reference results, and write the documents' tables."""
    try:
        if options.folder is not None:
            publish(options.folder, options.weights)
        renew_tables()
    except (ValueError, RuntimeError) as error:
        logger.error("%s", error)
        return 2
    except OSError as error:
        logger.error("%s", _in_words(error))
        return 2
    logger.info("The records are in %s; README and RESULTS show them.", reference_folder())
    return 0


def _in_words(error: OSError) -> str:
    """Say what the system refused; an error of ours says it by itself."""
    if error.errno is None or isinstance(error, UnwritableError):
        return str(error)
    return f"{error.filename} cannot be read or written ({error.strerror}): mend that and publish again."
