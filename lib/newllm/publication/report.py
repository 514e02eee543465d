"""The report of a run: its executed notebook without code, one page that holds all it shows and fetches nothing."""

import copy
import json
from pathlib import Path
from typing import Any

import nbformat
import plotly.io

from newllm.files import write_atomically
from newllm.progress import without_bars
from newllm.publication.formulas import FormulaExporter

REPORT_FILE = "report.html"
FETCHES_NOTHING = (
    "<meta http-equiv=\"Content-Security-Policy\" content=\"default-src data: blob: 'unsafe-inline' 'unsafe-eval'\">"
)
FIGURE = "application/vnd.plotly.v1+json"


def write_report(notebook: Path, target: Path) -> Path:
    """Write the report of an executed notebook, in one step, and return where it is.

    Parameters
    ----------
    notebook
        The executed notebook.
    target
        Where the page goes.
    """
    return write_atomically(target, report(nbformat.read(notebook, as_version=4)))


def report(notebook: nbformat.NotebookNode) -> str:
    """Make the page: texts, tables and what was printed, with figures that answer to the pointer.

    Parameters
    ----------
    notebook
        An executed notebook; it is left as it is.
    """
    shown = copy.deepcopy(notebook)
    has_script = False
    for cell in shown.cells:
        for output in cell.get("outputs", []):
            if output.output_type == "stream":
                output.text = without_bars(output.text)
            data = output.get("data", {})
            if FIGURE in data:
                # Plotly's script once, with the first figure.
                html = _html(data[FIGURE], with_script=not has_script)
                has_script = True
                output["data"] = {"text/html": html}
    exporter = FormulaExporter(exclude_input=True, exclude_input_prompt=True, exclude_output_prompt=True)
    # These would be fetched from elsewhere; formulas are in the page as MathML.
    exporter.mathjax_url = exporter.require_js_url = exporter.jquery_url = ""
    page, _ = exporter.from_notebook_node(shown)
    return str(page).replace("<head>", f"<head>{FETCHES_NOTHING}", 1)


def _html(figure: dict[str, Any], *, with_script: bool) -> str:
    drawn = plotly.io.from_json(json.dumps({key: figure[key] for key in ("data", "layout")}))
    return str(plotly.io.to_html(drawn, full_html=False, include_plotlyjs=with_script))
