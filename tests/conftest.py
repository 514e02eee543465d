"""What every test may count on."""

import logging
import os
from collections.abc import Iterator
from pathlib import Path

import pandas as pd
import pytest
import torch
from hypothesis import settings as hypothesis_settings

from newllm.data import TextData, prepare_data
from newllm.experiments.comparison import compare
from tests.comparison_setup import settings, write_texts

# Tests run side by side, one a core, and numbers are equal to the bit only for equal numbers of threads: one, here and
# in every process and kernel that a test starts.
os.environ["OMP_NUM_THREADS"] = "1"
torch.set_num_threads(1)

# The machines that tests run on are shared: how long one example takes says nothing about the code.
hypothesis_settings.register_profile("newllm", deadline=None)
hypothesis_settings.load_profile("newllm")


@pytest.fixture(autouse=True)
def unchanged_logging() -> Iterator[None]:
    """Undo what a test makes the command line or a notebook's first cell do to the loggers."""
    loggers = [logging.getLogger(name) for name in ("newllm", "papermill")]
    before = [(logger.level, logger.propagate, list(logger.handlers), list(logger.filters)) for logger in loggers]
    yield
    for logger, (level, propagate, handlers, filters) in zip(loggers, before, strict=True):
        logger.setLevel(level)
        logger.propagate, logger.handlers, logger.filters = propagate, handlers, filters


@pytest.fixture(scope="session")
def text_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with some text."""
    folder = tmp_path_factory.mktemp("texts")
    write_texts(folder)
    return folder


@pytest.fixture(scope="session")
def text_data(text_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> TextData:
    """The windows of that text."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("NEWLLM_CACHE", str(tmp_path_factory.mktemp("cache")))
        return prepare_data(settings(text_folder))


@pytest.fixture(scope="session")
def finished_comparison(
    text_folder: Path, text_data: TextData, tmp_path_factory: pytest.TempPathFactory
) -> tuple[pd.DataFrame, Path]:
    """The records by arm of a finished comparison on those windows, and its folder."""
    folder = tmp_path_factory.mktemp("finished")
    return compare(settings(text_folder), text_data, folder).set_index("arm"), folder
