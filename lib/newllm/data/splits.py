"""Training and validation documents: which side a document is on, and in which order they are taken."""

import hashlib
import itertools
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Literal

from newllm.data.sources import Source

Side = Literal["train", "validation"]


def split_rule(validation_percent: int) -> str:
    """Name the rules below, as every cache key does.

    Change it with them, and with how sources make documents of their files and rows.
    """
    return f"blake2b of the words, {validation_percent} percent for validation"


def document_hash(text: str) -> bytes:
    """Hash of a document's words; copies that differ in white space alone have the same (16 bytes)."""
    return hashlib.blake2b(" ".join(text.split()).encode(), digest_size=16).digest()


def side_of(digest: bytes, validation_percent: int) -> Side:
    """Side of the document with this hash. Nothing else has a say: not its place, not the size of the data."""
    return "validation" if int.from_bytes(digest[-8:]) % 100 < validation_percent else "train"


@dataclass
class Block:
    """Documents of one block, by side, in the order of their hashes."""

    train: list[str] = field(default_factory=list)
    validation: list[str] = field(default_factory=list)


class SplitDocuments:
    """Documents of a source, split into two sides and brought into the order of their hashes.

    A source that is finite and small is one block; a long stream comes in blocks of ``source.block_size``, so that
    only as much of it is read as is needed, while more samples still begin with the same ones. Each distinct
    document is given once; empty ones are dropped.

    Parameters
    ----------
    source
        Opened when the first block is asked for.
    validation_percent
        Of how many documents in a hundred, about, the validation side consists.
    """

    def __init__(self, source: Source, validation_percent: int) -> None:
        self._source = source
        self._validation_percent = validation_percent
        self._blocks = self._read()
        self._first: Block | None = None

    @property
    def first(self) -> Block:
        """The first block: what a tokenizer may be trained on, whatever the number of samples."""
        if self._first is None:
            self._first = next(self._blocks, Block())
        return self._first

    def __iter__(self) -> Iterator[Block]:
        """Give every block once; the source is read a single time."""
        return itertools.chain([self.first], self._blocks)

    def _read(self) -> Iterator[Block]:
        seen: set[bytes] = set()
        texts: Iterable[str] = (row["text"] for row in self._source.documents())
        while chunk := list(itertools.islice(texts, self._source.block_size)):
            # Of copies that differ in white space the least one stays, whatever the order of files.
            fresh = {document_hash(text): text for text in sorted(chunk, reverse=True) if text.strip()}
            block = Block()
            for digest in sorted(fresh.keys() - seen):
                getattr(block, side_of(digest, self._validation_percent)).append(fresh[digest])
            seen |= fresh.keys()
            yield block
