"""Where to compute, on which machine and code, in which environment, and how quietly."""

import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn
from transformers.utils import logging as transformers_logging

from newllm.files import project_root


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
        torch.zeros(1, device=device).item()
    except (RuntimeError, AssertionError) as error:
        raise ValueError(f"device {name} cannot be used here ({str(error).splitlines()[0]})") from error
    return device


def move(model: nn.Module, place: torch.device | str | torch.dtype) -> None:
    """Move a model to a device, or to a dtype, in place.

    The annotations that transformers gives its models' ``to`` refuse both.
    """
    model.to(place)


def git(*arguments: str) -> str | None:
    """Return what git says about the clone, or None where there is no git or no clone."""
    try:
        done = subprocess.run(
            ["git", "-C", str(project_root()), *arguments], capture_output=True, text=True, check=True, timeout=30
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip()


def commit() -> str | None:
    """Return the commit of the clone that the code runs from; None where it runs from no clone."""
    is_clone = git("rev-parse", "--show-cdup") == ""  # otherwise the folder lies inside somebody else's clone
    return git("rev-parse", "HEAD") if is_clone else None


def machine_load() -> float | None:
    """Return how many threads of this machine wanted a core in the last minute; None where it is not told."""
    return round(os.getloadavg()[0], 2) if hasattr(os, "getloadavg") else None


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
