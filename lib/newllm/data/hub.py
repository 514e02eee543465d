"""Reading from the Hugging Face hub: one deadline for all retries, a stream that resumes, one clear error."""

import contextlib
import functools
import itertools
import json
import logging
import queue
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NoReturn, TypeVar

import datasets
import huggingface_hub
from huggingface_hub import HfApi, constants
from huggingface_hub.errors import (
    EntryNotFoundError,
    HFValidationError,
    OfflineModeIsEnabled,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)

from newllm.files import cache_folder, write_atomically

logger = logging.getLogger(__name__)

ATTEMPTS = 5
FIRST_WAIT_SECONDS = 1.0

# For all tries together, and for the next rows of a stream. Weights and whole data sets are large, and take longer.
DEADLINE_SECONDS = 60.0
DOWNLOAD_DEADLINE_SECONDS = 3600.0

# Whether anything answers at all is known sooner.
REACHED_SECONDS = 5.0

ROWS_AT_ONCE = 100

# What no second try would change.
_FINAL = (
    EntryNotFoundError,
    HFValidationError,
    OfflineModeIsEnabled,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)

Result = TypeVar("Result")


class HubUnavailableError(ConnectionError):
    """The Hugging Face hub did not answer within the deadline, or has not what was asked for."""


class _TooSlowError(TimeoutError):
    """The deadline has passed; the call may still hang in its thread."""


def is_reachable() -> bool:
    """Tell whether the hub answers anything at all."""
    if constants.HF_HUB_OFFLINE:
        return False
    try:
        huggingface_hub.get_session().head(constants.ENDPOINT, timeout=REACHED_SECONDS)
    except Exception:  # of whichever client the library uses
        return False
    return True


def _give_up(what: str, offline_choice: str, reason: str, error: Exception) -> NoReturn:
    raise HubUnavailableError(
        f"The Hugging Face hub did not give {what} {reason}: check the name and the connection, or work offline with "
        f"{offline_choice}."
    ) from error


def _described(error: BaseException) -> str:
    """Kind and first line of an error; the libraries wrap the one that says something in others that do not."""
    while error.__cause__ is not None:
        error = error.__cause__
    first = next(iter(str(error).strip().splitlines()), "")
    return f"{type(error).__name__}: {first}" if first else type(error).__name__


def _is_final(error: BaseException | None) -> bool:
    while error is not None:
        if isinstance(error, _FINAL):
            return True
        error = error.__cause__
    return False


def _within(seconds: float, action: Callable[[], Result]) -> Result:
    """Return what a call gives, or raise what it raises; _TooSlowError where neither comes in time.

    Neither the libraries' own timeouts nor their retries bound a call: a server that drips resets the first, and the
    second multiply. A thread can be left behind.
    """
    answer: queue.Queue[tuple[Result | None, Exception | None]] = queue.Queue()

    def call() -> None:
        try:
            answer.put((action(), None))
        except Exception as error:
            answer.put((None, error))

    threading.Thread(target=call, daemon=True).start()
    try:
        result, error = answer.get(timeout=max(seconds, 0.0))
    except queue.Empty:
        raise _TooSlowError(f"no answer in {seconds:.0f} s") from None
    if error is not None:
        raise error
    return result  # type: ignore[return-value]


@contextlib.contextmanager
def _from_the_local_cache() -> Iterator[None]:
    """Let the hub's libraries read what they fetched earlier, and ask for nothing."""
    before = constants.HF_HUB_OFFLINE, datasets.config.HF_HUB_OFFLINE
    constants.HF_HUB_OFFLINE = datasets.config.HF_HUB_OFFLINE = True
    try:
        yield
    finally:
        constants.HF_HUB_OFFLINE, datasets.config.HF_HUB_OFFLINE = before


def ask_hub(action: Callable[[], Result], what: str, offline_choice: str, *, seconds: float | None = None) -> Result:
    """Call the hub, at most five times, waiting 1, 2, 4 and 8 seconds in between, all within one deadline.

    Where nothing answers at all, the call is made once, on what was fetched earlier.

    Parameters
    ----------
    action
        The call; any exception of it counts as a failure.
    what
        What is asked for, for the messages.
    offline_choice
        The parameter that needs no network, for the error.
    seconds
        For all tries together; `DEADLINE_SECONDS` where omitted.

    Raises
    ------
    HubUnavailableError
        When the last try failed too, the deadline has passed, or the hub has no such thing.
    """
    seconds = DEADLINE_SECONDS if seconds is None else seconds
    end = time.monotonic() + seconds
    if not is_reachable():
        try:
            with _from_the_local_cache():
                return _within(seconds, action)
        except Exception as error:
            _give_up(what, offline_choice, "because it cannot be reached from here", error)
    for failures in itertools.count(1):
        try:
            return _within(end - time.monotonic(), action)
        # Failures come up as exceptions of half a dozen libraries (httpx, aiohttp, fsspec, pyarrow ...).
        except Exception as error:
            if _is_final(error):
                _give_up(what, offline_choice, f"({_described(error)})", error)
            _wait_or_give_up(failures, end, what, offline_choice, error)
    raise AssertionError("unreachable")


def _wait_or_give_up(failures: int, end: float, what: str, offline_choice: str, error: Exception) -> None:
    wait = FIRST_WAIT_SECONDS * 2 ** (failures - 1)
    if failures == ATTEMPTS or isinstance(error, _TooSlowError) or time.monotonic() + wait > end:
        tries = "try" if failures == 1 else "tries"
        _give_up(what, offline_choice, f"in {failures} {tries} ({_described(error)})", error)
    logger.warning("%s failed (%s); trying again in %.0f s", what, _described(error), wait)
    time.sleep(wait)


def refuse_local_twin(repository: str) -> None:
    """Raise ValueError where a folder here has the name of a hub repository: the libraries would read that instead."""
    if Path(repository).exists():
        raise ValueError(
            f"{Path(repository).resolve()} has the name of a data set on the hub and would be read instead of it: "
            "rename it, or work in another folder."
        )


def dataset_revision(repository: str, offline_choice: str) -> str:
    """Commit of a dataset repository: the newest at first use, from then on the one in the cache folder.

    A recorded revision keeps later runs on the same data, and lets them start without a network.

    Raises
    ------
    HubUnavailableError
        When the hub does not answer and no revision was recorded.
    """
    record = cache_folder() / "hub" / f"{repository.replace('/', '--')}.json"
    try:
        return str(json.loads(record.read_text(encoding="utf-8"))["revision"])
    except FileNotFoundError:
        pass
    except (ValueError, KeyError, TypeError) as error:
        logger.warning("%s is damaged (%s): asking the hub again", record, error)
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
        After five tries in a row that brought no new row, or one minute without any.
    ValueError
        Where a folder has the repository's name.
    """
    refuse_local_twin(repository)
    if not is_reachable():
        unreachable = ConnectionError("the hub does not answer")
        _give_up(repository, offline_choice, "because it cannot be reached from here", unreachable)
    received = failures = 0
    end = time.monotonic() + DEADLINE_SECONDS
    stream: Iterator[dict[str, Any]] | None = None
    while True:
        try:
            if stream is None:
                opening = functools.partial(_open, repository, configuration, split, revision, received)
                stream = _within(end - time.monotonic(), opening)
            rows, error = _within(end - time.monotonic(), functools.partial(_next_rows, stream))
        except Exception as failure:
            rows, error = [], failure
        if rows:
            received, failures, end = received + len(rows), 0, time.monotonic() + DEADLINE_SECONDS
            yield from rows
            end = time.monotonic() + DEADLINE_SECONDS
        elif error is None:
            return
        if error is not None:
            stream, failures = None, failures + 1
            what = f"{repository} after row {received:,}" if received else repository
            _wait_or_give_up(failures, end, what, offline_choice, error)


def _open(
    repository: str, configuration: str | None, split: str, revision: str, received: int
) -> Iterator[dict[str, Any]]:
    """Open the stream behind the rows that are there already."""
    stream = datasets.load_dataset(repository, configuration, split=split, revision=revision, streaming=True)
    return itertools.islice(stream, received, None)


def _next_rows(stream: Iterator[dict[str, Any]] | None) -> tuple[list[dict[str, Any]], Exception | None]:
    """Take some rows, none at the end; where the stream breaks, those before that and the error."""
    rows: list[dict[str, Any]] = []
    try:
        for row in itertools.islice(stream or (), ROWS_AT_ONCE):
            rows.append(row)  # what came before an error counts
    except Exception as error:
        return rows, error
    return rows, None
