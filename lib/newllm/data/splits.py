"""Training, validation and test documents: which side a document is on, and in which order they are taken."""

import hashlib
import itertools
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from newllm.data.near_duplicates import RESEMBLANCE, SHINGLE_WORDS, near_duplicates
from newllm.data.sources import Document, Source, document_hash

Side = Literal["train", "validation", "test"]
SIDES: tuple[Side, ...] = ("train", "validation", "test")

# Chosen, before anything was trained, so that either side of both offline sources has 15 groups and about a tenth of
# the text.
SALT = "newllm 156"


@dataclass(frozen=True)
class Shares:
    """How much of the groups is held out.

    Attributes
    ----------
    validation, test
        Of how many groups in a hundred, about, a side consists; the rest is for training.
    """

    validation: int
    test: int

    def side_of(self, group: str) -> Side:
        """Side of a group. Nothing but its name has a say: not its place, not the size of the data."""
        digest = hashlib.blake2b(f"{SALT} {group}".encode(), digest_size=8).digest()
        number = int.from_bytes(digest) % 100
        if number < self.validation:
            return "validation"
        return "test" if number < self.validation + self.test else "train"

    def rule(self, source: Source) -> str:
        """Name the rules of this module, as every cache key does.

        Change it with them, and with how sources make documents and groups of their files and rows.
        """
        together = (
            f"near-duplicates ({RESEMBLANCE} of shingles of {SHINGLE_WORDS} words) together"
            if source.block_size is None
            else f"blocks of {source.block_size}"
        )
        return f"blake2b of {SALT} and the group, {together}, {self.validation} % validation, {self.test} % test"


@dataclass
class Block:
    """Documents of one block, by side, in the order of their hashes."""

    train: list[Document] = field(default_factory=list)
    validation: list[Document] = field(default_factory=list)
    test: list[Document] = field(default_factory=list)


class SplitDocuments:
    """Documents of a source, split into three sides and brought into the order of their hashes.

    A source that has an end is one block, and groups with near-duplicates in one another are on one side; a long stream
    comes in blocks of ``source.block_size``, so that only as much of it is read as is needed, while more samples still
    begin with the same ones, and only copies of the same words are known to be alike. Each distinct document is given
    once; empty ones are dropped.

    Parameters
    ----------
    source
        Opened when the first block is asked for.
    shares
        How much is held out.
    """

    def __init__(self, source: Source, shares: Shares) -> None:
        self._source = source
        self._shares = shares
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
        documents: Iterable[Document] = (Document(**row) for row in self._source.documents())
        while chunk := list(itertools.islice(documents, self._source.block_size)):
            # Of copies that differ in white space the least one stays, whatever the order of files.
            fresh = {document_hash(item.text): item for item in sorted(chunk, reverse=True) if item.text.strip()}
            ordered = [fresh[digest] for digest in sorted(fresh.keys() - seen)]
            seen |= fresh.keys()
            merged = merged_groups(ordered) if self._source.block_size is None else {}
            block = Block()
            for document in ordered:
                group = merged.get(document.group, document.group)
                getattr(block, self._shares.side_of(group)).append(Document(document.text, group))
            yield block


def merged_groups(documents: Sequence[Document]) -> Mapping[str, str]:
    """Name for each group the one it is held out with: the first, by name, of those that share near-duplicates.

    Parameters
    ----------
    documents
        All documents of a source.

    Returns
    -------
    mapping
        From each group's name to that of the merged one, its own where it resembles no other.
    """
    names, numbers = np.unique([document.group for document in documents], return_inverse=True)
    pairs = numbers[near_duplicates([document.text for document in documents])]
    graph = coo_array((np.ones(len(pairs)), (pairs[:, 0], pairs[:, 1])), shape=(len(names), len(names)))
    _, components = connected_components(graph, directed=False)
    _, firsts = np.unique(components, return_index=True)
    return {str(name): str(names[firsts[component]]) for name, component in zip(names, components, strict=True)}
