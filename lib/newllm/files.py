"""How files are written (whole or not at all, with a digest of their content), and where they are."""

import errno
import hashlib
import json
import os
import re
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path, PurePosixPath
from tempfile import TemporaryDirectory
from typing import Any

import pydantic_core

# What lies in the folder of a run: what is run, the mark of a finished one with its files' digests, a trained model.
RUN_FILE = "run.json"
FINISHED_FILE = "finished.json"
SAVED_MODEL = "model"

# What says of a projection checkpoint which weights it holds, written last.
PROJECTION_DESCRIPTION = "projection.json"

# Beginning of the names of files that are being written; one that is found at a start was left by a killed process.
PARTIAL = ".partial-"


class DamagedFileError(ValueError):
    """A file that does not hold what was written to it; one sentence names it."""


class UnwritableError(OSError):
    """A file that cannot be written; one sentence says why."""

    def __str__(self) -> str:
        """Say it without the number of the error."""
        return f"{self.filename} cannot be written ({self.strerror}): choose another place."


def why_unwritable(folder: Path, error: OSError) -> str:
    """Say that nothing can be written in a folder among the outputs, and what to do."""
    return (
        f"{folder} cannot be written ({error.strerror or error}): make room or choose another folder "
        "(NEWLLM_OUTPUTS moves all of them)."
    )


def nearest_existing(path: Path) -> Path:
    """Return a path, or the nearest folder above it that is there."""
    return next(place for place in (path.absolute(), *path.absolute().parents) if place.exists())


def refuse_unwritable(folder: Path) -> None:
    """Refuse a folder among the outputs in which nothing can be made; it is left as it is, also if missing.

    Raises
    ------
    OSError
        With one sentence that says why, and what to do.
    """
    try:
        # Made in truth: permissions do not tell of full disks, nor of what root may not do either.
        with TemporaryDirectory(prefix=PARTIAL, dir=nearest_existing(folder)):
            pass
    except OSError as error:
        raise OSError(why_unwritable(folder, error)) from error


def digest(content: bytes | memoryview | str) -> str:
    """Return the SHA-256 of bytes, or of a text in UTF-8, as 64 hexadecimal digits."""
    return hashlib.sha256(content.encode() if isinstance(content, str) else content).hexdigest()


def digest_of_json(value: Any) -> str:
    """Return the digest of plain JSON values, the same whatever the order of their keys."""
    return digest(json.dumps(value, sort_keys=True))


def digest_of_file(path: Path) -> str:
    """Return the digest of a file's bytes; one that has not been written since is not read again."""
    status = path.stat()
    return _digest_of_file(path, (status.st_ino, status.st_mtime_ns, status.st_ctime_ns, status.st_size))


@lru_cache(maxsize=4096)
def _digest_of_file(path: Path, version: tuple[int, ...]) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def leads_inside(folder: Path, name: str) -> bool:
    """Tell whether a name that a file gives is that of something in a folder, whoever wrote the file.

    It is not where it is empty, absolute or has "..", and where a link on its way leaves the folder.

    Parameters
    ----------
    folder
        Where it shall lie.
    name
        A path below that, with slashes.
    """
    written = PurePosixPath(name)
    if not written.parts or written.is_absolute() or ".." in written.parts or "\\" in name:
        return False
    try:
        found, whole = (folder / name).resolve(), folder.resolve()
    except (OSError, RuntimeError, ValueError):  # a loop of links, or a character that no name has
        return False
    return found != whole and found.is_relative_to(whole)


def first_damaged(folder: Path, digests: Mapping[str, str]) -> Path | None:
    """Return the first file of a folder that is missing, or is not what its digest says; None where all are whole.

    What does not lie in the folder, by its name or by a link, is none of its files and counts as missing.

    Parameters
    ----------
    folder
        Where the files lie.
    digests
        SHA-256 of each file, as `digest_of_file` gives it, by its name in the folder.
    """
    for name, known in digests.items():
        path = folder / name
        if not leads_inside(folder, name) or not path.is_file() or digest_of_file(path) != known:
            return path
    return None


def copy_atomically(source: Path, target: Path) -> Path:
    """Copy a file so that a reader, or a killed copy, finds the whole old file or the whole new one."""
    with atomic_file(target) as temporary:
        shutil.copyfile(source, temporary)
    return target


def different_keys(before: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """Return the keys whose values differ between two mappings, or that only one of them has."""
    return [key for key in {**before, **now} if key not in before or key not in now or before[key] != now[key]]


def to_json(value: Any) -> str:
    """Return strict, indented JSON of plain values, numpy numbers, paths and records; nan and infinity become null."""
    return pydantic_core.to_json(value, indent=2, inf_nan_mode="null", fallback=lambda item: item.tolist()).decode()


@contextmanager
def atomic_file(path: Path) -> Iterator[Path]:
    """Give a temporary path to write to; it becomes ``path`` when the block ends, whole or not at all.

    Parameters
    ----------
    path
        Where the file shall stand. Its folder is made where it is missing.

    Raises
    ------
    UnwritableError
        Before the block begins, where no file can be made there, or what stands there is no regular file: a folder
        cannot be replaced, and a pipe or a device must not be.
    """
    # Not tempfile: its files can be read by their owner alone, and outputs may lie in a shared folder.
    temporary = path.with_name(f"{PARTIAL}{os.getpid()}-{path.name}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.exists() and not path.is_file():
            raise FileExistsError(errno.EEXIST, "it is a folder" if path.is_dir() else "it is no regular file")
        temporary.touch()
    except OSError as error:
        raise UnwritableError(error.errno, error.strerror, str(path)) from error
    try:
        yield temporary
        with temporary.open("rb") as file:
            os.fsync(file.fileno())
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def write_atomically(path: Path, text: str) -> Path:
    """Write a text so that a reader, or a killed writer, finds the whole old file or the whole new one."""
    with atomic_file(path) as temporary:
        temporary.write_text(text, encoding="utf-8")
    return path


def write_json(path: Path, content: Mapping[str, Any]) -> Path:
    """Write an object as JSON, atomically, with a digest that `read_json` checks; nan and infinity become null."""
    plain = json.loads(to_json(dict(content)))
    return write_atomically(path, to_json(plain | {"digest": digest_of_json(plain)}))


def read_json(path: Path) -> dict[str, Any]:
    """Read what `write_json` wrote.

    Raises
    ------
    FileNotFoundError
        Where there is no file.
    DamagedFileError
        Where it is anything but what was written.
    """
    stored = read_plain_json(path)
    if not isinstance(stored, dict) or stored.pop("digest", None) != digest_of_json(stored):
        raise DamagedFileError(f"{path} is damaged: its content does not agree with its digest")
    return stored


def read_plain_json(path: Path) -> Any:
    """Read a JSON file that has no digest.

    Raises
    ------
    FileNotFoundError
        Where there is no file.
    DamagedFileError
        Where it is no JSON, or cannot be read.
    """
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise
    except OSError as error:
        raise DamagedFileError(f"{path} cannot be read ({error.strerror})") from error
    except (ValueError, RecursionError) as error:
        raise DamagedFileError(f"{path} is damaged: it is no JSON ({error})") from error


def remove_leftovers(folder: Path) -> None:
    """Delete what writers that were killed left in a folder and below; nobody else may be writing there."""
    for path in sorted(folder.rglob(f"{PARTIAL}*")):
        if path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)


def project_root() -> Path:
    """Return the clone this package runs from: the folder that holds ``lib``, ``params`` and ``notebooks``.

    Raises
    ------
    FileNotFoundError
        If the package runs from somewhere else, such as a wheel without the notebooks.
    """
    root = Path(__file__).resolve().parents[2]
    if not (root / "params").is_dir():
        raise FileNotFoundError(
            f"newllm runs from {root}, which is not a clone of the project; clone it and install it with `make lab`."
        )
    return root


def outputs_folder() -> Path:
    """Return the folder that holds the run folders: ``NEWLLM_OUTPUTS``, or ``outputs`` in the clone."""
    return _moved_by("NEWLLM_OUTPUTS", "outputs")


def local_folder(where: str | Path) -> Path | None:
    """Return the folder of this name, here or below the outputs; None where there is none, so that it is a hub id."""
    given = Path(where).expanduser()
    return next((place for place in (given, outputs_folder() / given) if place.is_dir()), None)


def local_gguf(where: str | Path) -> Path | None:
    """Return the GGUF file of this name; None where there is none."""
    file = Path(where).expanduser()
    return file if file.suffix == ".gguf" and file.is_file() else None


def is_local_model(where: str | Path) -> bool:
    """Tell whether a model of this name is a folder or a file here, so that no hub is asked."""
    return local_folder(where) is not None or local_gguf(where) is not None


def why_no_model(name: str) -> str | None:
    """Say why a name is no folder, no GGUF file, and no model's on the hub, without asking it; None where it may be."""
    if is_local_model(name):
        return None
    beginning = Path(name).parts[0] if name else name
    is_path = beginning == "outputs" or any((place / beginning).exists() for place in (Path.cwd(), outputs_folder()))
    if not is_path and re.fullmatch(r"\w[\w.-]*/\w[\w.-]*", name):
        return None
    return (
        f"there is no folder {name} (seen from {Path.cwd()} and from {outputs_folder()}), and a model of the hub is "
        "named owner/name, such as EleutherAI/pythia-70m."
    )


def reference_folder() -> Path:
    """Return the folder that holds the committed results."""
    return project_root() / "outputs" / "reference"


def cache_folder() -> Path:
    """Return the folder that holds prepared data, safe to delete: ``NEWLLM_CACHE``, or ``outputs/cache``."""
    return _moved_by("NEWLLM_CACHE", "outputs/cache")


def _moved_by(variable: str, default: str) -> Path:
    moved = os.environ.get(variable)
    return Path(moved).expanduser().resolve() if moved else project_root() / default
