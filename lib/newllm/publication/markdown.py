"""Markdown: tables of texts, and the addresses that a document links to."""

import re
from collections.abc import Callable, Sequence

import pandas as pd

# [text](address) and ![text](address); an address with white space is none.
_LINK = re.compile(r"(?<=\]\()(?P<address>[^)\s]+)(?=\))")
_CODE = re.compile(r"^```.*?^```$", re.MULTILINE | re.DOTALL)


def markdown_table(table: pd.DataFrame, *, right: Sequence[str] = ()) -> str:
    """Write a table of texts.

    Parameters
    ----------
    table
        Each cell is written as ``str`` gives it; a bar within a cell is escaped.
    right
        The columns whose cells stand on the right, as numbers do.
    """
    rules = ["---:" if name in right else "---" for name in table.columns]
    rows = [[str(cell).replace("|", "\\|") for cell in row] for row in [table.columns, *table.to_numpy()]]
    return "\n".join("| " + " | ".join(row) + " |" for row in [rows[0], rules, *rows[1:]]) + "\n"


def replace_links(text: str, replacement: Callable[[str], str]) -> str:
    """Put another address into every link and picture of a document, those in fenced code left out.

    Parameters
    ----------
    text
        The document.
    replacement
        Gives the new address for each one.
    """
    parts, begin = [], 0
    for code in _CODE.finditer(text):
        parts += [_LINK.sub(lambda link: replacement(link["address"]), text[begin : code.start()]), code[0]]
        begin = code.end()
    return "".join([*parts, _LINK.sub(lambda link: replacement(link["address"]), text[begin:])])
