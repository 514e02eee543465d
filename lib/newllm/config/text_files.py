"""Text files that a user names, found before anything is read; quick to import, so that a name is refused at once."""

import glob
from collections.abc import Iterable
from functools import lru_cache
from pathlib import Path

from newllm.files import digest, digest_of_file

TEXT_SUFFIXES = (".txt", ".jsonl")


def matching_files(pattern: str) -> list[Path]:
    """Find the files that a user names: a file, a folder with all its .txt and .jsonl files, or a pattern.

    Raises
    ------
    ValueError
        A file of another kind.
    FileNotFoundError
        Nothing of this name.
    """
    path = Path(pattern).expanduser()
    if path.is_dir():
        files = [found for found in sorted(path.rglob("*")) if found.suffix in TEXT_SUFFIXES and found.is_file()]
        if not files:
            raise FileNotFoundError(f"text_files: the folder {pattern!r} holds no .txt or .jsonl file.")
        return files
    names = [pattern] if path.is_file() else glob.glob(str(path), recursive=True)  # noqa: PTH207 - may be absolute
    files = [found for name in names if (found := Path(name).expanduser()).is_file()]
    if not files:
        raise FileNotFoundError(f"text_files: no file matches {pattern!r} (seen from {Path.cwd()}).")
    for found in files:
        if found.suffix not in TEXT_SUFFIXES:
            raise ValueError(f"text_files matches {found}, but only .txt and .jsonl files are read.")
    return files


def digest_of_texts(files: Iterable[Path]) -> str:
    """Hash the kind and content of files, each read once a process; names and order do not matter to the documents."""
    return _digest_of_texts(tuple((path, *_version(path)) for path in files))


def _version(path: Path) -> tuple[int, int, int]:
    status = path.stat()
    return status.st_mtime_ns, status.st_ctime_ns, status.st_size


# Whole sets of files: there may be more files than `digest_of_file` remembers.
@lru_cache(maxsize=64)
def _digest_of_texts(files: tuple[tuple[Path, int, int, int], ...]) -> str:
    return digest("\n".join(sorted(path.suffix + digest_of_file(path) for path, *_ in files)))[:32]
