"""Tables under a notebook's cells: readable in Jupyter, in a report, on a code host that drops styles, and as text."""

import textwrap
from collections.abc import Sequence
from html import escape

import pandas as pd

from newllm.analysis.findings import seeds_can_tell
from newllm.analysis.tables import BARS, COLUMNS, EIGHTHS, arms_table, readable, shared_budget
from newllm.evaluation.verdicts import NO_VERDICT
from newllm.figures.style import BETTER, WORSE
from newllm.wording import breakable

SIGNED = {name: column.words for name, column in COLUMNS.items() if "+" in column.pattern}
OF_DIFFERENCE = "nats/token from"
# Headings of what a reader asks of an arm; that of a difference names the baseline, too.
FIRST = (COLUMNS["kv_bytes_per_token"].words, BARS, COLUMNS["perplexity"].words, OF_DIFFERENCE, "verdict", "seeds")
GAP = "  "
NO_BREAK = "\N{NO-BREAK SPACE}"
HEADING_LINES, HEADING_WIDTH, CAPTION_WIDTH = 4, 9, 120
HALF = "± is half of a 95 % interval."
SEEDS = "± is half of a 95 % interval over seeds, of which all arms together say how much one changes."
DIFFERENCE = "Differences are on the same windows, negative is better."
OVER_BOTH = "Their intervals are over seeds and documents together, and verdicts allow for the number of rows (Holm)."
DOCUMENTS_ALONE = (
    "± is half of a 95 % interval, with one seed over documents alone: no verdict is given, because nobody knows what "
    "another seed would find."
)
TOO_FEW = "Of so few seeds no verdict is given."


def show(frame: pd.DataFrame, columns: Sequence[str] | None = None, caption: str | None = None) -> "Table":
    """Show a table, one thing a row, as `newllm.analysis.tables.readable` writes it.

    Parameters
    ----------
    frame
        The table; its index is not shown.
    columns
        Names of columns in the order to show, all of them where omitted.
    caption
        What a reader must know; where omitted, what ± and differences are, if there are any. It is all that is shown
        of a table without rows.
    """
    texts = readable(frame.reset_index(drop=True), columns)
    said = " ".join([HALF] * _has_interval(texts) + [DIFFERENCE] * _has_difference(texts))
    return Table(texts, _colours(frame.reset_index(drop=True)), said if caption is None else caption)


def show_arms(summary: pd.DataFrame, baseline: str | None = None, more: Sequence[str] = ()) -> "Table":
    """Show a comparison: an arm a row, the best first, in the columns of every table of results, `FIRST` before others.

    Parameters
    ----------
    summary
        As `newllm.analysis.summary.summarize_arms` makes it.
    baseline
        The arm that differences were taken from.
    more
        Columns of the summary that stand behind those of every table.
    """
    ordered = summary.reset_index(drop=True)
    texts = _first_what_decides(arms_table(ordered, baseline, more))
    colours = _colours(ordered).rename(columns={SIGNED["difference"]: f"nats/token from {baseline}"})
    return Table(texts, colours, _caption(ordered, texts))


def _first_what_decides(texts: pd.DataFrame) -> pd.DataFrame:
    """Put the columns `FIRST` behind the name of the arm: at the right a narrow page cuts what is not."""
    before = list(texts)[: list(texts).index("arm") + 1]
    plain = {name: OF_DIFFERENCE if str(name).startswith(OF_DIFFERENCE) else name for name in texts}
    first = [name for asked in FIRST for name in texts if plain[name] == asked]
    return texts[[*before, *first, *(name for name in texts if name not in (*before, *first))]]


def _colours(frame: pd.DataFrame) -> pd.DataFrame:
    """Return the colour of each difference by heading: none where its interval holds zero or tells nothing."""
    colours = pd.DataFrame(index=frame.index)
    told = ~frame["verdict"].isin(NO_VERDICT) if "verdict" in frame else pd.Series(True, index=frame.index)
    for name, words in SIGNED.items():
        if f"{name}_low" in frame:
            below, above = told & (frame[f"{name}_high"] < 0), told & (frame[f"{name}_low"] > 0)
            colours[words] = [BETTER if low else WORSE if high else "" for low, high in zip(below, above, strict=True)]
    return colours


def _caption(summary: pd.DataFrame, texts: pd.DataFrame) -> str:
    """Say what is true of this comparison: its budget, what its intervals are over, and whether seeds give verdicts."""
    budget = shared_budget(summary)
    after = (
        ", some after a model that lends its embedding" if summary.get("trained_otherwise", pd.Series()).any() else ""
    )
    said = [f"All arms were trained with {budget}{after}."] if budget else []
    measures = texts[[name for name in texts if not str(name).startswith(OF_DIFFERENCE)]]
    of_seeds, has_difference = _has_interval(measures), _has_difference(texts)
    if of_seeds:
        said.append(SEEDS)
    if has_difference:
        said.append(DIFFERENCE)
    if has_difference and _has_interval(texts):
        said.append(OVER_BOTH if of_seeds else DOCUMENTS_ALONE)
        if of_seeds and not seeds_can_tell(summary):
            said.append(TOO_FEW)
    return " ".join(said)


def _has_interval(texts: pd.DataFrame) -> bool:
    return any(" ± " in text or text.startswith("± ") for text in texts.to_numpy().ravel())


def _has_difference(texts: pd.DataFrame) -> bool:
    return any(str(name).startswith(OF_DIFFERENCE) for name in texts)


class Table:
    """A table of texts, which a cell ends with.

    Parameters
    ----------
    texts
        What stands in it.
    colours
        The colour of some texts, by column; empty where a text has none.
    caption
        What a reader must know to read it.
    """

    def __init__(self, texts: pd.DataFrame, colours: pd.DataFrame | None = None, caption: str = "") -> None:
        self.columns: dict[str, list[str]] = {str(name): list(texts[name]) for name in texts}
        self.colours: dict[str, list[str]] = (
            {} if colours is None else {str(name): list(colours[name]) for name in colours}
        )
        self.caption = caption

    def __repr__(self) -> str:
        """Return the table as text, as wide as it is."""
        return self.text()

    def text(self, width: int | None = None) -> str:
        """Write the table for a terminal: names to the left, numbers to the right.

        Parameters
        ----------
        width
            Characters of a line; a wider table goes on below, its first column again at the left. None: no limit.
        """
        if not any(self.columns.values()):
            return self.caption
        first, *others = (_column(name, texts) for name, texts in self.columns.items())
        blocks = [[first]]
        for column in others:
            used = sum(len(lines[0]) + len(GAP) for lines in blocks[-1])
            if width is not None and used + len(column[0]) > width and len(blocks[-1]) > 1:
                blocks.append([first])
            blocks[-1].append(column)
        parts = [_side_by_side(block) for block in blocks]
        return "\n\n".join([*parts, *([textwrap.fill(self.caption, width or CAPTION_WIDTH)] if self.caption else [])])

    def _repr_html_(self) -> str:
        """Return the table as HTML whose layout needs no style sheet; colours are lost where styles are dropped."""
        below = f"<p>{escape(self.caption)}</p>" if self.caption else ""
        if not any(self.columns.values()):
            return below
        sides = {name: "right" if _is_number(texts) else "left" for name, texts in self.columns.items()}
        heads = "".join(f'<th align="{sides[name]}">{escape(name)}</th>' for name in self.columns)
        cells = [
            [_cell(text, sides[name], colour) for text, colour in zip(texts, self._colours_of(name), strict=True)]
            for name, texts in self.columns.items()
        ]
        rows = "\n".join(f"<tr>{''.join(row)}</tr>" for row in zip(*cells, strict=True))
        return (
            f'<table class="dataframe">\n<thead><tr>{heads}</tr></thead>\n<tbody>\n{rows}\n</tbody>\n</table>\n{below}'
        )

    def _colours_of(self, name: str) -> list[str]:
        return self.colours.get(name) or [""] * len(self.columns[name])


def _cell(text: str, side: str, colour: str) -> str:
    # A number keeps to one line with its interval, also where styles are dropped.
    whole = text.rstrip().replace(" ± ", NO_BREAK + "±" + NO_BREAK)
    shown = breakable(whole) if "@" in whole else escape(whole)
    coloured = f'<b style="color:{colour}">{shown}</b>' if colour else shown
    return f'<td align="{side}" style="text-align:{side}">{coloured}</td>'


def _is_number(texts: Sequence[str]) -> bool:
    """Whether a column is of numbers, which end at one place."""
    return not any(character.isalpha() or character in EIGHTHS[1:] for text in texts for character in text)


def _column(name: str, texts: list[str]) -> list[str]:
    """Return the lines of a column, all as wide: its heading over several, then its texts."""
    room = max(HEADING_WIDTH, *map(len, texts))
    while len(words := textwrap.wrap(name, room, break_long_words=False)) > HEADING_LINES:
        room += 1
    heading = [""] * (HEADING_LINES - len(words)) + words
    width = max(map(len, [*heading, *texts]))
    return [line.rjust(width) if _is_number(texts) else line.ljust(width) for line in [*heading, *texts]]


def _side_by_side(columns: list[list[str]]) -> str:
    lines = [GAP.join(parts).rstrip() for parts in zip(*columns, strict=True)]
    return "\n".join(lines[next(index for index, line in enumerate(lines) if line) :])
