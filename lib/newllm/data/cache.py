"""Files of the cache folder: named after everything that their content depends on, and checked by their digest."""

import hashlib
import json
import logging
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from newllm.files import atomic_file, write_atomically

logger = logging.getLogger(__name__)


def cache_key(**fields: str | int) -> str:
    """Digest (32 hex digits) of everything a cached file depends on.

    Parameters
    ----------
    **fields
        Name and value of each thing; a change in any of them gives another key.
    """
    return hashlib.sha256(json.dumps(fields, sort_keys=True).encode()).hexdigest()[:32]


@contextmanager
def cached_file(path: Path) -> Iterator[Path]:
    """Give a temporary path to write to; it becomes ``path``, with its digest beside it, when the block ends."""
    digest_file = _digest_file(path)
    digest_file.unlink(missing_ok=True)
    with atomic_file(path) as temporary:
        yield temporary
        line = f"{_digest(temporary)}  {path.name}\n"
    # Last: a file without its digest is made again.
    write_atomically(digest_file, line)


def is_whole(path: Path) -> bool:
    """Tell whether a cached file is there and is what was written; what is damaged is named in a warning."""
    if not path.is_file():
        return False
    try:
        known = _digest_file(path).read_bytes().split()[:1]
    except FileNotFoundError:
        known = []
    if known == [_digest(path).encode()]:
        return True
    logger.warning("%s is damaged (it is not what its digest says): making it again", path)
    return False


def _digest_file(path: Path) -> Path:
    """File beside a cached one, as ``sha256sum -c`` reads it."""
    return path.with_name(f"{path.name}.sha256")


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
