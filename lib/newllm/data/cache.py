"""Files of the cache folder (tokens, trained tokenizers): what names them and how they are written."""

import hashlib
import json
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


def cache_key(**fields: str | int) -> str:
    """Digest (32 hex digits) of everything a cached file depends on.

    Parameters
    ----------
    **fields
        Name and value of each thing; a change in any of them gives another key.
    """
    return hashlib.sha256(json.dumps(fields, sort_keys=True).encode()).hexdigest()[:32]


@contextmanager
def atomic_file(path: Path) -> Iterator[Path]:
    """Give a temporary path to write to; it becomes ``path`` when the block ends, whole or not at all.

    Parameters
    ----------
    path
        Where the file shall stand. Its folder is made where it is missing.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(prefix=f".{path.stem}-", suffix=path.suffix, dir=path.parent)
    os.close(handle)
    temporary = Path(name)
    try:
        yield temporary
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
