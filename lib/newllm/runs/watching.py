"""Whoever looks on while a comparison runs: a view of it, drawn again and again from the files of the work."""

import logging
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Protocol

from newllm.runs.outlook import Outlook, describe_outlook, look

logger = logging.getLogger(__name__)

LOOK_EVERY_SECONDS = 0.5
LINE_EVERY_SECONDS = 30.0


class View(Protocol):
    """Shows where a comparison stands."""

    def show(self, found: Outlook) -> None:
        """Show this in the place of what was shown before."""

    def close(self) -> None:
        """Take away what was shown."""


class Nothing:
    """No view, where another process looks on."""

    def show(self, found: Outlook) -> None:
        """Show nothing."""

    def close(self) -> None:
        """Leave nothing."""


class Lines:
    """A plain line now and then, for what is neither a terminal nor a notebook."""

    def __init__(self, every: float = LINE_EVERY_SECONDS) -> None:
        self.every = every
        self.last = time.monotonic()

    def show(self, found: Outlook) -> None:
        """Log a line, if the last one is long ago."""
        if time.monotonic() - self.last >= self.every:
            self.last = time.monotonic()
            logger.info("%s", describe_outlook(found))

    def close(self) -> None:
        """Leave what was logged."""


_chosen: list[Callable[[], View]] = [Lines]


def view_with(make: Callable[[], View]) -> None:
    """Show the comparisons of this process from now on in views that are made so."""
    _chosen[:] = [make]


@contextmanager
def watched(folder: Path, view: View | None = None) -> Iterator[None]:
    """Show where the comparison in a folder stands as long as the block lasts.

    Parameters
    ----------
    folder
        Of the comparison; it need not be there yet.
    view
        Where to show it; omitted, what `view_with` was told.
    """
    shown = _chosen[0]() if view is None else view
    over, since = threading.Event(), time.time()

    def draw() -> None:
        while not over.wait(LOOK_EVERY_SECONDS):
            found = look(folder, since)
            if found is not None:
                shown.show(found)

    thread = threading.Thread(target=draw, daemon=True)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()
        shown.close()
