"""Windows of tokens: the one thing that every model is trained on and measured with."""

from collections.abc import Callable, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import Dataset

from newllm.data.cache import cache_key, cached_file, is_whole
from newllm.files import cache_folder

TokenIds = NDArray[np.uint16] | NDArray[np.uint32]


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

    Attributes
    ----------
    text_bytes
        Bytes of the text of all predicted tokens; end-of-text counts none.
    """

    def __init__(self, token_ids: TokenIds, seq_length: int, bytes_per_token: NDArray[np.int64]) -> None:
        windows, rest = divmod(len(token_ids) - 1, seq_length)
        if windows < 1 or rest:
            raise ValueError(f"{len(token_ids)} ids are not a whole number of windows of {seq_length}, plus one id.")
        self.token_ids = token_ids
        self.seq_length = seq_length
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

    def stream(self, windows: int | None = None) -> Tensor:
        """Return the ids of the first windows (all if None) as one continuous stream (windows * seq_length,).

        Raises
        ------
        ValueError
            Where there are not so many windows.
        """
        count = len(self) if windows is None else windows
        if not 1 <= count <= len(self):
            raise ValueError(f"there are {len(self)} windows, not {count}")
        return torch.from_numpy(self.token_ids[: count * self.seq_length].astype(np.int64))


def smallest_id_type(vocabulary_size: int) -> type[np.uint16] | type[np.uint32]:
    """Type in which every id of the vocabulary fits."""
    return np.uint16 if vocabulary_size <= np.iinfo(np.uint16).max + 1 else np.uint32


class CachedTokens:
    """An array of token ids on disk, read by memory map, made again where it is missing or damaged.

    Parameters
    ----------
    label
        Beginning of the file's name, for people.
    length
        How many ids it holds.
    **fields
        Everything else that the ids depend on; with ``length`` it is the key.
    """

    def __init__(self, label: str, length: int, **fields: str) -> None:
        self.length = length
        self.path = cache_folder() / "tokens" / f"{label}-{cache_key(length=length, **fields)}.npy"

    def read(self) -> TokenIds | None:
        """Ids (length,) as a memory map, or None where there is no whole file."""
        return np.load(self.path, mmap_mode="r", allow_pickle=False) if is_whole(self.path) else None

    def write(self, ids: TokenIds) -> TokenIds:
        """Store ids (length,) whole or not at all; give them back as a memory map."""
        with cached_file(self.path) as temporary:
            np.save(temporary, ids, allow_pickle=False)
        return np.load(self.path, mmap_mode="r", allow_pickle=False)

    def read_or_make(self, make: Callable[[], TokenIds]) -> TokenIds:
        """Ids as a memory map, made and stored where they are missing."""
        ids = self.read()
        return self.write(make()) if ids is None else ids


def concatenate(
    parts: Sequence[Sequence[int] | NDArray[np.unsignedinteger]], id_type: type[np.uint16] | type[np.uint32]
) -> TokenIds:
    """One array of all ids, in order."""
    return np.concatenate([np.asarray(part, dtype=id_type) for part in parts])
