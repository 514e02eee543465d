"""Reading from the Hugging Face hub: bounded retries, a stream that resumes, one clear error."""

import itertools
import json
import logging
import time
from collections.abc import Callable, Iterator
from typing import Any, NoReturn, TypeVar

import datasets
from huggingface_hub import HfApi

from newllm.files import cache_folder, write_atomically

logger = logging.getLogger(__name__)

ATTEMPTS = 5
FIRST_WAIT_SECONDS = 1.0

Result = TypeVar("Result")


class HubUnavailableError(ConnectionError):
    """The Hugging Face hub did not answer, after every retry."""


def _give_up(what: str, offline_choice: str, error: Exception) -> NoReturn:
    raise HubUnavailableError(
        f"The Hugging Face hub did not give {what} in {ATTEMPTS} tries ({type(error).__name__}: {error}). "
        f"Check the connection, or work offline with {offline_choice}."
    ) from error


def _wait(failures: int, what: str, error: Exception) -> None:
    seconds = FIRST_WAIT_SECONDS * 2 ** (failures - 1)
    logger.warning("%s failed (%s: %s); trying again in %.0f s", what, type(error).__name__, error, seconds)
    time.sleep(seconds)


def ask_hub(action: Callable[[], Result], what: str, offline_choice: str) -> Result:
    """Call the hub, at most five times, waiting 1, 2, 4 and 8 seconds in between.

    Parameters
    ----------
    action
        The call; any exception of it counts as a failure.
    what
        What is asked for, for the messages.
    offline_choice
        The parameter that needs no network, for the error.

    Raises
    ------
    HubUnavailableError
        When the last try failed too.
    """
    for failures in itertools.count(1):
        try:
            return action()
        # Failures come up as exceptions of half a dozen libraries (httpx, aiohttp, fsspec, pyarrow ...).
        except Exception as error:
            if failures == ATTEMPTS:
                _give_up(what, offline_choice, error)
            _wait(failures, what, error)
    raise AssertionError("unreachable")


def dataset_revision(repository: str, offline_choice: str) -> str:
    """Commit of a dataset repository: the newest at first use, from then on the one in the cache folder.

    A recorded revision keeps later runs on the same data, and lets them start without a network.

    Raises
    ------
    HubUnavailableError
        When the hub does not answer and no revision was recorded.
    """
    record = cache_folder() / "hub" / f"{repository.replace('/', '--')}.json"
    if record.is_file():
        return str(json.loads(record.read_text())["revision"])
    revision = ask_hub(lambda: HfApi().dataset_info(repository, timeout=30).sha, repository, offline_choice)
    write_atomically(record, json.dumps({"repository": repository, "revision": revision}))
    return str(revision)


def dataset_rows(
    repository: str, configuration: str | None, split: str, revision: str, offline_choice: str
) -> Iterator[dict[str, Any]]:
    """Stream the rows of one split, going on after the last row received where the stream breaks.

    Parameters
    ----------
    repository, configuration, split, revision
        As ``datasets.load_dataset`` takes them. The fixed revision makes a reopened stream the same stream.
    offline_choice
        The parameter that needs no network, for the error.

    Yields
    ------
    dict
        Each row once, in order.

    Raises
    ------
    HubUnavailableError
        After five tries in a row that brought no new row.
    """
    received = failures = 0
    while True:
        try:
            stream = datasets.load_dataset(repository, configuration, split=split, revision=revision, streaming=True)
            for row in itertools.islice(stream, received, None):
                received, failures = received + 1, 0
                yield row
            return
        except Exception as error:
            failures += 1
            if failures == ATTEMPTS:
                _give_up(repository, offline_choice, error)
            _wait(failures, f"{repository} after row {received:,}", error)
