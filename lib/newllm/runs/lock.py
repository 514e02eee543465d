"""Who works in a run folder: a lock file with its owner, which ends with its owner or when he gives no sign of life."""

import logging
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import SoftFileLease, Timeout

logger = logging.getLogger(__name__)

LOCK_FILE = ".lock"

# Seconds without a sign of life after which an owner on another machine counts as dead; one on this machine is looked
# for among the processes.
LEASE_SECONDS = 60.0

POLL_SECONDS = 0.5


class RunError(RuntimeError):
    """A run folder that cannot be used as asked; one sentence says why and what to do."""


@contextmanager
def locked(folder: Path, *, wait: bool = True) -> Iterator[None]:
    """Work in a folder alone: in this block no other process does.

    Parameters
    ----------
    folder
        The folder; it is made where it is missing.
    wait
        Whether to wait for whoever works there, after saying who it is.

    Raises
    ------
    RunError
        Where somebody works there and is not waited for, or has taken the folder over meanwhile, because this process
        was silent for longer than the lease.
    OSError
        Where nothing can be written there.
    """
    folder.mkdir(parents=True, exist_ok=True)
    lock = SoftFileLease(folder / LOCK_FILE, lease_duration=LEASE_SECONDS, timeout=0)
    said = False
    while True:
        try:
            lock.acquire()
            break
        except Timeout as error:
            if not wait:
                raise RunError(f"{_owner(lock)} works in {folder}: wait for it to end, or end it.") from error
            if not said:
                logger.info("%s works in %s: waiting for it to end.", _owner(lock), folder)
            said = True
            _remove_unsigned(folder / LOCK_FILE)
            time.sleep(POLL_SECONDS)
    try:
        yield
        if lock.compromise is not None:
            raise RunError(f"{folder} was taken over by another process, {_owner(lock)}, while this one was silent.")
    finally:
        lock.release()


def _owner(lock: SoftFileLease) -> str:
    owner = lock.owner
    return f"process {owner.pid} on {owner.hostname}" if owner else "another process"


def _remove_unsigned(path: Path) -> None:
    """Remove a lock whose owner was killed before he signed it, which nobody else does."""
    try:
        status = path.stat()
        if status.st_size == 0 and time.time() - status.st_mtime > LEASE_SECONDS:
            path.unlink()
    except FileNotFoundError:
        pass
