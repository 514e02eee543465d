"""Peak memory of a piece of work: of the process, or of the tensors that the work makes."""

import math
import threading
import weakref
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import psutil
import torch
from torch import Tensor, UntypedStorage
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

# Asking takes about 20 us, so 1 % of a core; what takes minutes is asked of less often.
SAMPLE_SECONDS = 0.002


@dataclass
class PeakMemory:
    """Filled in when the block of `peak_memory` ends.

    Attributes
    ----------
    before
        Bytes in use when the block began.
    peak
        Most bytes in use inside it.
    """

    before: int
    peak: int

    @property
    def added(self) -> int:
        """Bytes that the block needed on top of what was there."""
        return self.peak - self.before


@contextmanager
def peak_memory(device: torch.device | str = "cpu", sample_seconds: float = SAMPLE_SECONDS) -> Iterator[PeakMemory]:
    """Measure the most memory that a block of code holds at once.

    On a CUDA device this is what PyTorch allocated there, exactly. On any other it is the resident memory of the
    process, sampled: what an earlier step freed and the process kept is not seen as added, so compare in fresh
    processes.

    Parameters
    ----------
    device
        Where the work runs.
    sample_seconds
        Time between samples, where there are any.

    Yields
    ------
    PeakMemory
        Complete after the block.
    """
    place = torch.device(device)
    if place.type == "cuda":
        torch.cuda.reset_peak_memory_stats(place)
        memory = PeakMemory(before := torch.cuda.memory_allocated(place), before)
        try:
            yield memory
        finally:
            memory.peak = torch.cuda.max_memory_allocated(place)
        return
    process = psutil.Process()
    memory = PeakMemory(before := process.memory_info().rss, before)
    done = threading.Event()

    def sample() -> None:
        while not done.wait(sample_seconds):
            memory.peak = max(memory.peak, process.memory_info().rss)

    sampler = threading.Thread(target=sample, daemon=True)
    sampler.start()
    try:
        yield memory
    finally:
        done.set()
        sampler.join()
        memory.peak = max(memory.peak, process.memory_info().rss)


class TensorMemory(TorchDispatchMode):
    """Counts the tensors of a block of code: exact to the byte, on any device, whatever the allocator keeps.

    What a kernel needs inside itself is no tensor and is not counted. Use it as a context manager.

    Attributes
    ----------
    peak
        Most bytes that tensors held at once, above those that were there when the block began.
    """

    def __init__(self) -> None:
        super().__init__()
        self.peak = 0
        self._above = 0
        self._watched: set[int] = set()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Run an operation and count what it made; its inputs are watched, too, so that their end is noticed."""
        for storage in _storages((args, kwargs)):
            self._watch(storage)
        result = func(*args, **(kwargs or {}))
        for storage in _storages(result):
            if self._watch(storage):
                self._above += storage.nbytes()
                self.peak = max(self.peak, self._above)
        return result

    def _watch(self, storage: UntypedStorage) -> bool:
        """Notice when a storage is freed; returns whether it is a new one."""
        if id(storage) in self._watched:
            return False
        self._watched.add(id(storage))
        weakref.finalize(storage, self._freed, id(storage), storage.nbytes())
        return True

    def _freed(self, identity: int, nbytes: int) -> None:
        self._watched.discard(identity)
        self._above -= nbytes


class BytesRead(TorchDispatchMode):
    """Counts the bytes that the operations of a block of code read, beside given weights. Use it as a context manager.

    Each operation reads each of its inputs once, whatever its kernel does; a view reads nothing, a tensor that is only
    written neither, and a tensor that is expanded is as small as its storage.

    Parameters
    ----------
    weights
        Tensors that are not counted.

    Attributes
    ----------
    total
        Bytes read.
    """

    def __init__(self, weights: Iterable[Tensor]) -> None:
        super().__init__()
        self.total = 0
        self._weights = {weight.untyped_storage().data_ptr() for weight in weights}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Count what an operation reads, and run it."""
        returned = [value.alias_info for value in func._schema.returns]
        if not any(alias is not None and not alias.is_write for alias in returned):
            written = [
                argument.alias_info is not None and argument.alias_info.is_write for argument in func._schema.arguments
            ]
            read = [value for value, is_written in zip(args, written, strict=False) if not is_written]
            self.total += sum(self._nbytes(value) for value in tree_leaves((read, kwargs)) if isinstance(value, Tensor))
        return func(*args, **(kwargs or {}))

    def _nbytes(self, tensor: Tensor) -> int:
        if tensor.untyped_storage().data_ptr() in self._weights:
            return 0
        sizes = (size for size, stride in zip(tensor.shape, tensor.stride(), strict=True) if stride)
        return math.prod(sizes) * tensor.element_size() if tensor.numel() else 0


def _storages(values: Any) -> list[UntypedStorage]:
    return [value.untyped_storage() for value in tree_leaves(values) if isinstance(value, Tensor)]
