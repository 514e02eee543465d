"""Files of the cache folder: named after everything that their content depends on, and checked by their digest."""

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from newllm.files import atomic_file, cache_folder, digest_of_file, digest_of_json, write_atomically

logger = logging.getLogger(__name__)


def cache_key(**fields: str | int) -> str:
    """Digest (32 hex digits) of everything a cached file depends on.

    Parameters
    ----------
    **fields
        Name and value of each thing; a change in any of them gives another key.
    """
    return digest_of_json(fields)[:32]


@contextmanager
def cached_file(path: Path) -> Iterator[Path]:
    """Give a temporary path to write to; it becomes ``path``, with its digest beside it, when the block ends."""
    digest_file = _digest_file(path)
    digest_file.unlink(missing_ok=True)
    with atomic_file(path) as temporary:
        yield temporary
        line = f"{digest_of_file(temporary)}  {path.name}\n"
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
    if known == [digest_of_file(path).encode()]:
        return True
    logger.warning("%s is damaged (it is not what its digest says): making it again", _shown(path))
    return False


def _shown(path: Path) -> Path:
    """Name a file as it is called in the cache folder, so that a message names no place of this machine."""
    return path.relative_to(cache_folder()) if path.is_relative_to(cache_folder()) else path


def _digest_file(path: Path) -> Path:
    """File beside a cached one, as ``sha256sum -c`` reads it."""
    return path.with_name(f"{path.name}.sha256")
