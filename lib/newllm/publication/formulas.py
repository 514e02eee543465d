"""Formulas of Markdown as MathML, which a browser draws by itself, so that a page with formulas fetches nothing."""

import re
from collections.abc import Mapping
from html import unescape
from typing import Any

from jinja2 import pass_context
from latex2mathml.converter import convert
from nbconvert import HTMLExporter
from nbconvert.filters.markdown_mistune import IPythonRenderer, MarkdownWithMath

# What the converter does not know it hands through as it is.
COMMAND = re.compile(r"\\[a-zA-Z]")


def mathml(formula: str, *, is_display: bool = False) -> str | None:
    r"""Convert a formula; None where that cannot be done in full.

    Parameters
    ----------
    formula
        TeX, without its dollars.
    is_display
        Whether it stands in a line of its own.
    """
    try:
        converted = str(convert(formula.strip(), display="block" if is_display else "inline"))
    except Exception:  # of many kinds, an IndexError among them: whatever it is, the formula is shown as it was written
        return None
    return None if COMMAND.search(unescape(converted)) else converted


class FormulaRenderer(IPythonRenderer):
    """Markdown of a notebook with its formulas as MathML; what cannot be converted stays TeX."""

    def inline_math(self, body: str) -> str:
        """Write a formula within a line."""
        return mathml(body) or str(super().inline_math(body))

    def block_math(self, body: str) -> str:
        """Write a formula that has a line of its own."""
        return mathml(body, is_display=True) or str(super().block_math(body))


class FormulaExporter(HTMLExporter):
    """Notebooks as HTML, with formulas as MathML."""

    @pass_context
    def markdown2html(self, context: Mapping[str, Any], source: str) -> str:
        """Write the Markdown of a cell as HTML."""
        renderer = FormulaRenderer(
            escape=False,
            attachments=context.get("cell", {}).get("attachments", {}),
            anchor_link_text=self.anchor_link_text,
        )
        return str(MarkdownWithMath(renderer=renderer).render(source))
