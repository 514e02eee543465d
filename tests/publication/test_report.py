"""The report of a run: without code, with figures that answer to the pointer, and nothing in it is fetched."""

import nbformat
import plotly.graph_objects as go
from nbformat import v4

from newllm.publication.report import FIGURE, write_report


def test_a_report_holds_texts_tables_and_figures_and_no_code(tmp_path):
    figure = {**go.Figure(go.Bar(y=[1, 2])).to_plotly_json(), "config": {}}
    outputs = [v4.new_output("display_data", {FIGURE: figure}) for _ in range(2)]
    outputs.append(v4.new_output("execute_result", {"text/html": "<table><tr><td>12.5</td></tr></table>"}))
    code = v4.new_code_cell("secret_code()", outputs=outputs)
    notebook = v4.new_notebook(cells=[v4.new_markdown_cell("# What was asked"), code])
    nbformat.write(notebook, tmp_path / "run.ipynb")
    page = write_report(tmp_path / "run.ipynb", tmp_path / "report.html").read_text(encoding="utf-8")
    assert "What was asked" in page and "12.5" in page and "secret_code" not in page
    assert page.count("Plotly.newPlot(") == 2
    # Plotly's script stands there once, and no other host may be asked for anything.
    assert 3e6 < len(page) < 7e6
    assert page.index("default-src data:") < page.index("<script")
