"""What every test may count on."""

import logging
import os
from collections.abc import Iterator

import pytest
import torch

# Tests run side by side, one a core, and numbers are equal to the bit only for equal numbers of threads: one, here and
# in every process and kernel that a test starts.
os.environ["OMP_NUM_THREADS"] = "1"
torch.set_num_threads(1)


@pytest.fixture(autouse=True)
def unchanged_logging() -> Iterator[None]:
    """Undo what a test makes the command line or a notebook's first cell do to the loggers."""
    loggers = [logging.getLogger(name) for name in ("newllm", "papermill")]
    before = [(logger.level, logger.propagate, list(logger.handlers), list(logger.filters)) for logger in loggers]
    yield
    for logger, (level, propagate, handlers, filters) in zip(loggers, before, strict=True):
        logger.setLevel(level)
        logger.propagate, logger.handlers, logger.filters = propagate, handlers, filters
