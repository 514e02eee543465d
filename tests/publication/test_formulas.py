"""Formulas of a page: MathML, which needs no script, in Markdown alone; what cannot be converted stays as it was."""

import re

import nbformat
import pytest
from nbformat import v4

from newllm.commands.shared import available_notebooks, notebook_path
from newllm.publication.formulas import mathml
from newllm.publication.report import report


def body(page: str) -> str:
    """What a reader sees of a page as text, without code."""
    return re.sub(r"<(script|style|code|pre)\b.*?</\1>", "", page, flags=re.DOTALL)


def page_of(*texts: str) -> str:
    return report(v4.new_notebook(cells=[v4.new_markdown_cell(text) for text in texts]))


@pytest.mark.parametrize("name", available_notebooks())
def test_every_formula_of_a_notebook_is_converted(name):
    notebook = nbformat.read(notebook_path(name), as_version=4)
    notebook.cells = [cell for cell in notebook.cells if cell.cell_type == "markdown"]
    page = report(notebook)
    assert "$" not in body(page)
    assert page.count("<math ") == page.count("</math>") >= ("$" in "".join(cell.source for cell in notebook.cells))
    assert "default-src data:" in page and not re.search(r"<(script|link)[^>]+(src|href)=[\"']?[^\"'>d]", page)


def test_a_formula_in_a_line_and_one_of_its_own():
    page = page_of("Two vectors of width $5/8\\,d$, and\n\n$$ a_{<i} * b * c \\le \\sqrt{d_h} $$")
    assert page.count('display="inline"') == page.count('display="block"') == 1
    # No Markdown is read in a formula.
    assert "<msqrt>" in page and "<em>" not in page and "$" not in body(page)


@pytest.mark.parametrize("unknown", [r"\nosuchcommand{x}", r"\left( x", "x^"])
def test_what_cannot_be_converted_stays_as_it_was(unknown):
    assert mathml(unknown) is None
    page = page_of(f"Before ${unknown}$ after.")
    assert f"${unknown}$" in page and "<math" not in page


def test_dollars_in_code_and_of_money_are_no_formula():
    page = page_of("`$x$` is code.\n\n    $y$\n\nIt costs \\$5 or \\$6.")
    assert "<math" not in page and "<code>$x$</code>" in page and "$5 or $6" in page
