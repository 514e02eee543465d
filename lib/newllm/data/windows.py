"""Windows of tokens: the one thing that every model is trained on and measured with."""

from collections.abc import Sequence
from functools import cached_property
from typing import Literal, NamedTuple

import numpy as np
import torch
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import Dataset

from newllm.data.cache import cache_key, cached_file, is_whole
from newllm.data.groups import DocumentGroups
from newllm.files import cache_folder

TokenIds = NDArray[np.uint16] | NDArray[np.uint32]
WindowCount = int | Literal["all"]


class Tokens(NamedTuple):
    """A run of ids with end-of-text between documents, and the group of each document."""

    ids: TokenIds
    groups: DocumentGroups


class TokenWindows(Dataset[dict[str, Tensor]]):
    """Consecutive windows over one run of token ids.

    A window holds ``seq_length + 1`` ids, and its last id is the first of the next window: as a model predicts every
    id of a window but the first, each id of the run but the first is predicted exactly once.

    Parameters
    ----------
    token_ids
        Ids (windows * seq_length + 1,), end-of-text between documents.
    seq_length
        Predictions in a window.
    bytes_per_token
        Bytes of text that each id of the vocabulary stands for.
    groups
        Which document group each id belongs to; one group where omitted.

    Attributes
    ----------
    text_bytes
        Bytes of the text of all predicted tokens; end-of-text counts none.
    """

    def __init__(
        self,
        token_ids: TokenIds,
        seq_length: int,
        bytes_per_token: NDArray[np.int64],
        groups: DocumentGroups | None = None,
    ) -> None:
        windows, rest = divmod(len(token_ids) - 1, seq_length)
        if windows < 1 or rest:
            raise ValueError(f"{len(token_ids)} ids are not a whole number of windows of {seq_length}, plus one id.")
        self.token_ids = token_ids
        self.seq_length = seq_length
        self.groups = DocumentGroups.of([(len(token_ids), "all")]) if groups is None else groups
        self.bytes_per_token = bytes_per_token
        self.text_bytes = int(bytes_per_token[token_ids[1:]].sum())

    def __len__(self) -> int:
        return (len(self.token_ids) - 1) // self.seq_length

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        """Window number ``index``: ``input_ids`` and ``labels``, both (seq_length + 1,) and equal.

        The model shifts the labels; nobody else does.
        """
        if not 0 <= index < len(self):
            raise IndexError(f"window {index} of {len(self)}")
        start = index * self.seq_length
        ids = torch.from_numpy(self.token_ids[start : start + self.seq_length + 1].astype(np.int64))
        return {"input_ids": ids, "labels": ids}

    def rows(self) -> NDArray[np.integer]:
        """Ids of all windows (windows, seq_length + 1), without a copy."""
        ids: NDArray[np.integer] = np.asarray(self.token_ids)
        return sliding_window_view(ids, self.seq_length + 1)[:: self.seq_length]

    @cached_property
    def document_groups(self) -> NDArray[np.int64]:
        """For each window the number (windows,) of the document group that its middle predicted token belongs to."""
        return self.groups.at(np.arange(len(self)) * self.seq_length + (self.seq_length + 1) // 2)

    def first(self, windows: int) -> "TokenWindows":
        """Return the first windows, or all where there are fewer."""
        ids = self.token_ids[: min(windows, len(self)) * self.seq_length + 1]
        return TokenWindows(ids, self.seq_length, self.bytes_per_token, self.groups)

    def after(self, windows: int) -> "TokenWindows":
        """Return the windows behind the first ones, of one group; there must be any."""
        return TokenWindows(self.token_ids[windows * self.seq_length :], self.seq_length, self.bytes_per_token)

    def stream(self, windows: WindowCount = "all") -> Tensor:
        """Return the ids of the first windows, or of as many as there are, as one stream (windows * seq_length,)."""
        count = len(self) if windows == "all" else min(windows, len(self))
        return torch.from_numpy(self.token_ids[: count * self.seq_length].astype(np.int64))


def smallest_id_type(vocabulary_size: int) -> type[np.uint16] | type[np.uint32]:
    """Type in which every id of the vocabulary fits."""
    return np.uint16 if vocabulary_size <= np.iinfo(np.uint16).max + 1 else np.uint32


class CachedTokens:
    """A run of token ids on disk, read by memory map, made again where it is missing or damaged.

    Parameters
    ----------
    label
        Beginning of the file's name, for people.
    length
        How many ids it holds; ``all`` that its source has.
    **fields
        Everything else that the ids depend on; with ``length`` it is the key.
    """

    def __init__(self, label: str, length: WindowCount, **fields: str) -> None:
        self.length = length
        self.path = cache_folder() / "tokens" / f"{label}-{cache_key(length=length, **fields)}.npy"
        self.groups_path = self.path.with_suffix(".groups.npz")

    def read(self) -> Tokens | None:
        """Ids (length,) as a memory map, with their groups, or None where these files are not whole."""
        if not (is_whole(self.path) and is_whole(self.groups_path)):
            return None
        with np.load(self.groups_path, allow_pickle=False) as stored:
            groups = DocumentGroups(stored["ends"], stored["numbers"], tuple(map(str, stored["names"])))
        return Tokens(np.load(self.path, mmap_mode="r", allow_pickle=False), groups)

    def write(self, tokens: Tokens) -> Tokens:
        """Store ids (length,) and groups whole or not at all; give them back with the ids as a memory map."""
        with cached_file(self.groups_path) as temporary, temporary.open("wb") as file:
            groups = tokens.groups
            np.savez(file, ends=groups.ends, numbers=groups.numbers, names=np.array(groups.names, dtype=str))
        with cached_file(self.path) as temporary:
            np.save(temporary, tokens.ids, allow_pickle=False)
        return Tokens(np.load(self.path, mmap_mode="r", allow_pickle=False), tokens.groups)


def concatenate(
    parts: Sequence[Sequence[int] | NDArray[np.unsignedinteger]], id_type: type[np.uint16] | type[np.uint32]
) -> TokenIds:
    """One array of all ids, in order."""
    return np.concatenate([np.asarray(part, dtype=id_type) for part in parts])
