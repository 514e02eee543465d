"""The page of ``newllm start`` while models are trained, written every few seconds."""

import threading
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

from newllm.files import write_atomically
from newllm.publication.start_page import READ_AGAIN_SECONDS, Progress, StartPage, render
from newllm.runs.outlook import Outlook
from newllm.runs.watching import Nothing, View
from newllm.wording import describe_seconds

INTERRUPTED = "Interrupted. What was finished is kept, and the same command goes on from the last checkpoint."


class PageView:
    """The page, and a view that is shown beside it.

    Parameters
    ----------
    page
        What is known before; it is written at once.
    target
        Where the page is.
    """

    def __init__(self, page: StartPage, target: Path) -> None:
        self.page, self.target = page, target
        self.beside: View = Nothing()
        self._written = 0.0
        self._lock = threading.Lock()
        self.update()

    def update(self, **changes: Any) -> None:
        """Write the page with other values of some fields of `StartPage`."""
        with self._lock:
            self.page = replace(self.page, **changes)
            self._written = time.monotonic()
            write_atomically(self.target, render(self.page))

    def show(self, found: Outlook) -> None:
        """Show where the comparison stands."""
        self.beside.show(found)
        if time.monotonic() - self._written >= READ_AGAIN_SECONDS:
            self.update(state=state_of(found), progress=progress_of(found))

    def close(self) -> None:
        """Leave the page to what comes next."""
        self.beside.close()
        self.update(state="The models are trained; what came of them is being written down.")

    def interrupt(self) -> None:
        """Say that nothing goes on: what an arm was doing and the time that it needed are no longer true."""
        self.update(state=INTERRUPTED, progress=(), is_done=True)


def state_of(found: Outlook) -> str:
    """Say in a sentence where a comparison stands."""
    done = sum(row.is_done for row in found.rows)
    return f"{done} of {len(found.rows)} models are trained, about {describe_seconds(found.left)} left."


def progress_of(found: Outlook) -> tuple[Progress, ...]:
    """Return a line for each trial."""
    return tuple(
        Progress(
            arm=f"{row.arm}, seed {row.seed}",
            stage=row.stage,
            share=row.share,
            numbers=", ".join(f"{name} {value:.3f}" for name, value in row.numbers.items()),
            left=f"{describe_seconds(row.left)} left" if row.is_running else "",
        )
        for row in found.rows
    )
