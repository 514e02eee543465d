"""Several processes that train one model, as ``accelerate launch`` starts them: who is first, and waiting for others.

One process alone is the first of one, and waits for nobody.
"""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta

import torch
from torch import distributed

# The first process trains recurrences and scores while the others wait; one that died is noticed by the launcher.
PATIENCE = timedelta(days=7)


@contextmanager
def joined(device: torch.device) -> Iterator[None]:
    """Join the processes that the launcher started beside this one, if it did.

    Parameters
    ----------
    device
        Where they compute: CUDA talks by NCCL, everything else by gloo.
    """
    if int(os.environ.get("WORLD_SIZE", "1")) == 1:
        yield
        return
    if device.type == "cuda":
        torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
    # Numbers are agreed on in CPU memory, gradients averaged where they are.
    distributed.init_process_group("cpu:gloo,cuda:nccl" if device.type == "cuda" else "gloo", timeout=PATIENCE)
    try:
        yield
    finally:
        distributed.destroy_process_group()


def process_count() -> int:
    """Return how many processes train together."""
    return distributed.get_world_size() if distributed.is_initialized() else 1


def process_index() -> int:
    """Return this process's place among them, from 0."""
    return distributed.get_rank() if distributed.is_initialized() else 0


def is_first() -> bool:
    """Tell whether this process is the one that writes."""
    return process_index() == 0


def wait_for_others() -> None:
    """Return when all processes have come here."""
    if process_count() > 1:
        distributed.barrier()


def agreed(value: bool) -> bool:
    """Return what the first process has here, in all of them."""
    shared = torch.tensor([int(value)])
    if process_count() > 1:
        distributed.broadcast(shared, src=0)
    return bool(shared.item())


@contextmanager
def first_alone() -> Iterator[None]:
    """Let the first process do what stands inside, then the others; all go on together.

    So the first one makes or mends files, and the others find them as they shall be.
    """
    if not is_first():
        wait_for_others()
    yield
    if is_first():
        wait_for_others()
    wait_for_others()
