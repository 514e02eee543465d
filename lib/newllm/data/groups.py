"""Which document group each token of a run belongs to: the unit over which held-out losses vary."""

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray


@dataclass(frozen=True)
class DocumentGroups:
    """The groups of the documents of a run of ids, in order.

    Attributes
    ----------
    ends
        For each document the ids that there are up to its end (documents,), ascending.
    numbers
        For each document the number of its group in ``names`` (documents,).
    names
        The groups, in the order in which they first occur.
    """

    ends: NDArray[np.int64]
    numbers: NDArray[np.int64]
    names: tuple[str, ...]

    @classmethod
    def of(cls, documents: Iterable[tuple[int, str]]) -> "DocumentGroups":
        """Put together the groups of documents, each given by its ids and the name of its group."""
        lengths, names = [], []
        known: dict[str, int] = {}
        for length, name in documents:
            lengths.append(length)
            names.append(known.setdefault(name, len(known)))
        return cls(np.cumsum(lengths, dtype=np.int64), np.array(names, dtype=np.int64), tuple(known))

    def __len__(self) -> int:
        """Return the number of groups."""
        return len(self.names)

    def at(self, positions: ArrayLike) -> NDArray[np.int64]:
        """Give the number of the group (positions,) that the id at each place of the run belongs to."""
        return self.numbers[np.searchsorted(self.ends, positions, side="right")]

    def first(self, ids: int) -> "DocumentGroups":
        """Give the groups of the first ids of the run alone."""
        return DocumentGroups.of(zip(*self._documents(ids), strict=True))

    def with_more(self, ids: int, name: str) -> "DocumentGroups":
        """Give the groups of this run with one more document behind it."""
        lengths, names = self._documents(int(self.ends[-1]) if len(self.ends) else 0)
        return DocumentGroups.of(zip([*lengths, ids], [*names, name], strict=True))

    def _documents(self, ids: int) -> tuple[list[int], list[str]]:
        """Lengths and group names of the documents of the first ids."""
        lengths = np.diff(np.minimum(self.ends, ids), prepend=0)
        return lengths[lengths > 0].tolist(), [self.names[number] for number in self.numbers[lengths > 0]]
