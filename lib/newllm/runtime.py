"""Where to compute, in which environment, and how quietly."""

import os
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn
from transformers.utils import logging as transformers_logging


def choose_device(name: str) -> torch.device:
    """Return the device of that name; ``auto`` is the first accelerator, or the CPU."""
    if name != "auto":
        return torch.device(name)
    accelerator = torch.accelerator.current_accelerator() if torch.accelerator.is_available() else None
    return accelerator or torch.device("cpu")


def usable_device(name: str) -> torch.device:
    """Return the device of that name, which a first tensor has been put on.

    Raises
    ------
    ValueError
        Where this machine has no such device.
    """
    try:
        device = choose_device(name)
        torch.zeros(1, device=device)
    except (RuntimeError, AssertionError) as error:
        raise ValueError(f"device {name} cannot be used here ({str(error).splitlines()[0]})") from error
    return device


def move(model: nn.Module, place: torch.device | str | torch.dtype) -> None:
    """Move a model to a device, or to a dtype, in place.

    The annotations that transformers gives its models' ``to`` refuse both.
    """
    model.to(place)


@contextmanager
def environment(**values: str) -> Iterator[None]:
    """Set environment variables for the processes that are started inside."""
    before = {name: os.environ.get(name) for name in values}
    os.environ.update(values)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


@contextmanager
def no_progress_bar() -> Iterator[None]:
    """Draw no progress bar inside: reading or writing these weights takes no time worth one."""
    transformers_logging.disable_progress_bar()
    try:
        yield
    finally:
        transformers_logging.enable_progress_bar()


@contextmanager
def errors_only() -> Iterator[None]:
    """Draw no progress bar inside, and report nothing but errors."""
    before = transformers_logging.get_verbosity()
    transformers_logging.set_verbosity_error()
    try:
        with no_progress_bar():
            yield
    finally:
        transformers_logging.set_verbosity(before)
