"""The committed notebooks: executed afresh, readable without running, small."""

import base64
import json
import logging
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import nbformat
import plotly.io
from nbclient import NotebookClient

from newllm.config.profiles import CHECKS, SHOWN, load_parameters
from newllm.experiments.published import unpublished
from newllm.figures.widgets import WIDGET
from newllm.files import cache_folder, write_atomically
from newllm.notebook.kernel import kernel_of_this_python
from newllm.notebook.parameters_cell import TAG, renew_parameters
from newllm.progress import without_bars
from newllm.runs.pictures import write_pictures
from newllm.runtime import environment

logger = logging.getLogger(__name__)

MOST_NAMED = 3
FIGURE = "application/vnd.plotly.v1+json"
PICTURE = "image/png"

# What belongs to one execution on one machine, not to the notebook.
EXECUTION_METADATA = ("execution", "papermill", "widgets")


def shown_profile(notebook: str) -> str:
    """Return the profile that a committed notebook shows: the published results, or seconds where there are none.

    Parameters
    ----------
    notebook
        A key of `newllm.config.notebooks.NOTEBOOKS`.
    """
    missing = unpublished(load_parameters(notebook, SHOWN, {}))
    if missing:
        logger.info(
            "%s shows the profile %s: of what %s asks for, %s.", notebook, CHECKS, SHOWN, _not_published(missing)
        )
    return CHECKS if missing else SHOWN


def _not_published(missing: Sequence[str]) -> str:
    named = ", ".join(missing[:MOST_NAMED]) + (f" and {len(missing) - MOST_NAMED} more" * (len(missing) > MOST_NAMED))
    return f"{named} {'is' if len(missing) == 1 else 'are'} not published"


def refresh(path: Path) -> None:
    """Execute a notebook with the profile that `shown_profile` gives and write it back with its outputs.

    Runs into an empty outputs folder, so that nothing is taken over from earlier runs; what is published and prepared
    text are.

    Parameters
    ----------
    path
        The notebook; replaced in one step, and only where every cell ran.
    """
    notebook = nbformat.read(path, as_version=4)
    if any(TAG in cell.metadata.get("tags", []) for cell in notebook.cells):
        renew_parameters(notebook.cells, path.stem, shown_profile(path.stem))
    with (
        tempfile.TemporaryDirectory() as temporary,
        environment(NEWLLM_OUTPUTS=str(Path(temporary) / "outputs"), NEWLLM_CACHE=str(cache_folder())),
        kernel_of_this_python(),
    ):
        client = NotebookClient(
            notebook, timeout=None, kernel_name="python3", resources={"metadata": {"path": str(path.parent)}}
        )
        # Cell by cell: `execute` puts a handler in the place of Ctrl-C's that ends nothing but the kernel.
        client.reset_execution_trackers()
        with client.setup_kernel():
            for index, cell in enumerate(notebook.cells):
                client.execute_cell(cell, index, execution_count=client.code_cells_executed + 1)
    write_atomically(path, nbformat.writes(_tidy(embed_pictures(notebook))))


def embed_pictures(notebook: nbformat.NotebookNode) -> nbformat.NotebookNode:
    """Put a PNG beside every plotly figure, for readers where no script runs.

    Parameters
    ----------
    notebook
        An executed notebook; changed in place and returned.
    """
    outputs = [data for data in _displayed(notebook) if FIGURE in data and PICTURE not in data]
    if not outputs:
        return notebook
    with tempfile.TemporaryDirectory() as folder:
        files = [Path(folder) / f"{number}.png" for number in range(len(outputs))]
        write_pictures([plotly.io.from_json(_json(data[FIGURE])) for data in outputs], files)
        for data, file in zip(outputs, files, strict=True):
            data[PICTURE] = base64.b64encode(file.read_bytes()).decode()
    return notebook


def _tidy(notebook: nbformat.NotebookNode) -> nbformat.NotebookNode:
    """Drop warnings, progress bars, widget state and what only tells of this one execution."""
    for name in EXECUTION_METADATA:
        notebook.metadata.pop(name, None)
    # The kernel's own patch version would differ on every machine.
    notebook.metadata.language_info = {"name": "python"}
    for cell in notebook.cells:
        for name in EXECUTION_METADATA:
            cell.metadata.pop(name, None)
        if cell.cell_type == "code":
            for output in cell.outputs:
                if output.output_type == "stream":
                    output.text = without_bars(output.text)
                elif output.get("data", {}).keys() - {WIDGET, "text/plain"}:
                    # No kernel answers a control any more: what it drew at first is left.
                    output.data.pop(WIDGET, None)
            cell.outputs = [output for output in cell.outputs if not _is_passing(output)]
    return notebook


def _is_passing(output: nbformat.NotebookNode) -> bool:
    """Whether an output is for who waits, not for who reads: a warning or a progress bar."""
    text = output.get("data", {}).get("text/plain", "")
    return output.get("name") == "stderr" or output.get("text") == "" or without_bars(text) != text


def _displayed(notebook: nbformat.NotebookNode) -> Iterator[dict[str, Any]]:
    for cell in notebook.cells:
        for output in cell.get("outputs", []):
            if "data" in output:
                yield output["data"]


def _json(figure: dict[str, Any]) -> str:
    # The renderer's settings travel beside data and layout, and are no part of a figure.
    return json.dumps({key: figure[key] for key in ("data", "layout")})
