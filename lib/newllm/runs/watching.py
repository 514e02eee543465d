"""Whoever looks on while a comparison runs: a view of it, drawn again and again from the files of the work."""

import logging
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Protocol

from newllm.runs.outlook import Outlook, describe_outlook, look
from newllm.runs.progress import Plan

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
def watched(plan_now: Callable[[], Plan | None], view: View | None = None) -> Iterator[None]:
    """Show where a comparison stands as long as the block lasts.

    Parameters
    ----------
    plan_now
        Gives its plan as it is by now; None while there is none.
    view
        Where to show it; omitted, what `view_with` was told.
    """
    shown = _chosen[0]() if view is None else view
    over = threading.Event()

    def draw() -> None:
        while not over.wait(LOOK_EVERY_SECONDS):
            plan = plan_now()
            if plan is not None:
                shown.show(look(plan))

    thread = threading.Thread(target=draw, daemon=True)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()
        shown.close()
