"""Peak memory of a piece of work, on a GPU or a CPU."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import psutil
import torch

SAMPLE_SECONDS = 0.002


@dataclass
class PeakMemory:
    """Filled in when the block of :func:`peak_memory` ends.

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
def peak_memory(device: torch.device | str = "cpu") -> Iterator[PeakMemory]:
    """Measure the most memory that a block of code holds at once.

    On a CUDA device this is what PyTorch allocated there, exactly. On any other it is the resident memory of the
    process, sampled every 2 ms: what an earlier step freed and the process kept is not seen as added, so compare in
    fresh processes.

    Parameters
    ----------
    device
        Where the work runs.

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
        while not done.wait(SAMPLE_SECONDS):
            memory.peak = max(memory.peak, process.memory_info().rss)

    sampler = threading.Thread(target=sample, daemon=True)
    sampler.start()
    try:
        yield memory
    finally:
        done.set()
        sampler.join()
        memory.peak = max(memory.peak, process.memory_info().rss)
