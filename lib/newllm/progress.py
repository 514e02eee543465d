"""How far work is: stages with a number of steps, told to whoever listens, else drawn as a bar.

A comparison listens, in order to show all its trials in one place. Where nobody does, a terminal and a notebook get a
bar that leaves nothing behind, and a file or a pipe a plain line now and then.
"""

import logging
import os
import re
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Any

from tqdm import tqdm
from tqdm.auto import tqdm as automatic_tqdm

logger = logging.getLogger(__name__)

# The stages of a trial, in their order; what is expected of each is known by its name.
PROJECTION = "projection training"
TRAINING = "training"
SCORING = "scoring"
CERTIFICATE = "certificate"
DECODING = "decoding"

# Set to "lines" where somebody else shows how far a comparison is, and bars would be lost.
PROGRESS_VARIABLE = "NEWLLM_PROGRESS"
LINES = "lines"

BAR_AFTER_SECONDS = 2.0
LINE_EVERY_SECONDS = 10.0


@dataclass
class Stage:
    """A piece of work whose steps are counted.

    Attributes
    ----------
    name
        What is done, in words.
    total
        Steps that there are, as far as is known; None where nobody knows.
    unit
        What a step is.
    done
        Steps that are done.
    numbers
        What was found so far, by name: losses, rates.
    ended
        Whether nothing more will come.
    """

    name: str
    total: int | None
    unit: str = "step"
    done: int = 0
    numbers: dict[str, float] = field(default_factory=dict)
    ended: bool = False
    _tell: Callable[["Stage"], None] = field(default=lambda stage: None, repr=False)

    def advance(self, steps: int = 1, **numbers: float) -> None:
        """Count steps, and say what they found."""
        self.done += steps
        self.numbers |= numbers
        self._tell(self)


Listener = Callable[[Stage], None]
_listener: ContextVar[Listener | None] = ContextVar("listener", default=None)


@contextmanager
def told_to(listener: Listener) -> Iterator[None]:
    """Tell a listener of every stage inside: when it begins, advances and ends."""
    token = _listener.set(listener)
    try:
        yield
    finally:
        _listener.reset(token)


@contextmanager
def stage(name: str, total: int | None, unit: str = "step", *, done: int = 0) -> Iterator[Stage]:
    """Count the steps of a piece of work.

    Parameters
    ----------
    name
        What is done; of a trial, one of the stages above.
    total
        How many steps there are; None where nobody knows.
    unit
        What a step is.
    done
        How many of them were done before.
    """
    listener = _listener.get()
    if listener is None:
        with _bar(name, total, unit, done) as bar:
            yield Stage(name, total, unit, done, _tell=lambda told: _draw(bar, told))
        return
    told = Stage(name, total, unit, done, _tell=listener)
    listener(told)
    try:
        yield told
    finally:
        told.ended = True
        listener(told)


def is_in_lines() -> bool:
    """Tell whether this process is asked to draw nothing, as the kernel of a command is."""
    return os.environ.get(PROGRESS_VARIABLE) == LINES


def without_bars(text: str) -> str:
    """Return what was printed without the lines that were for who waits."""
    return "".join(line for line in text.splitlines(keepends=True) if re.search(r"\d+%\|", line) is None)


def _draw(bar: "tqdm[Any]", told: Stage) -> None:
    if told.numbers:
        bar.set_postfix_str(", ".join(f"{name} {value:.4g}" for name, value in told.numbers.items()), refresh=False)
    bar.total = told.total
    bar.update(told.done - bar.n)


def _bar(name: str, total: int | None, unit: str, done: int) -> "tqdm[Any]":
    can_draw = not is_in_lines() and (sys.stderr.isatty() or "ipykernel.zmqshell" in sys.modules)
    kind: type[tqdm[Any]] = automatic_tqdm if can_draw else _Lines
    return kind(
        total=total,
        initial=done,
        desc=name,
        unit=f" {unit}" if unit == "tokens" else unit,
        unit_scale=unit == "tokens",
        leave=False,
        delay=BAR_AFTER_SECONDS,
        dynamic_ncols=True,
    )


class _Lines(tqdm):
    """A bar for what is no terminal: a line in the log now and then."""

    def __init__(self, *args: Any, **settings: Any) -> None:
        pace = {"mininterval": LINE_EVERY_SECONDS, "delay": LINE_EVERY_SECONDS, "maxinterval": 2 * LINE_EVERY_SECONDS}
        super().__init__(*args, **settings | pace)

    def clear(self, *args: Any, **kwargs: Any) -> None:
        """Do nothing: a line stays where it is."""

    def refresh(self, nolock: bool = False, lock_args: Any = None) -> None:
        """Say how far it is where its own steps ask; where others wrote (``nolock``) there is nothing to draw anew."""
        if not nolock:
            super().refresh(lock_args=lock_args)

    def display(self, msg: str | None = None, pos: int | None = None) -> None:
        """Log the state; the end shows nothing, which would wipe out a bar."""
        text = str(self) if msg is None else msg
        if text:
            logger.info("%s", text)
