"""A comparison in a terminal: a row a trial, redrawn in its place, gone when it is done."""

import sys

from rich.console import Group, RenderableType
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from newllm.runs.outlook import Outlook, Row, describe_progress
from newllm.runs.watching import Lines, View
from newllm.wording import describe_seconds

# Of more trials, those are shown that run, and the others counted.
MOST_ROWS = 16
BAR_WIDTH = 24


class TerminalView:
    """Rows and bars in the place of those before; what is logged meanwhile goes above them."""

    def __init__(self) -> None:
        self._live: Live | None = None

    def show(self, found: Outlook) -> None:
        """Draw the rows."""
        if self._live is None:
            self._live = Live(auto_refresh=False, transient=True)
            self._live.start()
            # A command that is killed could not bring it back.
            self._live.console.show_cursor(True)
        self._live.update(drawn(found), refresh=True)

    def close(self) -> None:
        """Wipe the rows out."""
        if self._live is not None:
            self._live.stop()
            self._live = None


def view_of_this_terminal() -> View:
    """Return rows and bars for a terminal, and plain lines for a file or a pipe."""
    return TerminalView() if sys.stdout.isatty() else Lines()


def drawn(found: Outlook) -> RenderableType:
    """Draw where a comparison stands."""
    rows = found.rows if len(found.rows) <= MOST_ROWS else [row for row in found.rows if row.is_running][:MOST_ROWS]
    table = Table.grid(padding=(0, 2))
    for row in rows:
        table.add_row(*_cells(row))
    return Group(table, Text(describe_progress(found)))


def _cells(row: Row) -> tuple[RenderableType, ...]:
    numbers = "  ".join(f"{name} {value:.4g}" for name, value in row.numbers.items())
    left = f"{describe_seconds(row.left)} left" if row.is_running else ""
    return (
        Text(f"{row.arm} {row.seed}", no_wrap=True),
        ProgressBar(total=1.0, completed=row.share, width=BAR_WIDTH),
        Text(row.stage, no_wrap=True),
        Text(numbers),
        Text(left, no_wrap=True),
    )
