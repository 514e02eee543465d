"""A comparison in a notebook: a table under the cell, redrawn in its place, gone when it is done."""

from html import escape

from IPython.display import HTML, display

from newllm.runs.outlook import Outlook, Row, describe_outlook, describe_progress
from newllm.wording import describe_seconds


class NotebookView:
    """Rows and bars in one output of the cell, in the colours of the page around it."""

    def __init__(self) -> None:
        self._shown = None

    def show(self, found: Outlook) -> None:
        """Draw the rows."""
        data = {"text/html": drawn(found), "text/plain": describe_outlook(found)}
        if self._shown is None:
            self._shown = display(data, raw=True, display_id=True)
        else:
            self._shown.update(data, raw=True)

    def close(self) -> None:
        """Leave an empty output."""
        if self._shown is not None:
            self._shown.update(HTML(""))


def drawn(found: Outlook) -> str:
    """Draw where a comparison stands, as HTML."""
    return f'<table style="text-align:left">{"".join(map(_row, found.rows))}</table>{describe_progress(found)}'


def _row(row: Row) -> str:
    numbers = ", ".join(f"{name} {value:.4g}" for name, value in row.numbers.items())
    cells = (
        f"{escape(row.arm)} {row.seed}",
        f'<progress value="{row.share:.3f}" max="1"></progress>',
        escape(row.stage),
        escape(numbers),
        f"{describe_seconds(row.left)} left" if row.is_running else "",
    )
    return "<tr>" + "".join(f'<td style="text-align:left">{cell}</td>' for cell in cells) + "</tr>"
