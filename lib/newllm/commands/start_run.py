"""The work of ``newllm start`` and its page, from the first model to the last verdict."""

import argparse
import logging
import shlex
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

from newllm.commands.arguments.run import given_parameters, planned_runs
from newllm.commands.run import run_notebook, show_results
from newllm.commands.start import published_picture
from newllm.commands.terminal_view import view_of_this_terminal
from newllm.config.errors import ParameterError
from newllm.config.experiment import ExperimentParameters
from newllm.experiments.planning import check_before_work
from newllm.files import SAVED_MODEL, write_atomically
from newllm.publication.report import REPORT_FILE
from newllm.publication.start_content import calculator, published, results
from newllm.publication.start_page import READ_AGAIN_SECONDS, Progress, StartPage, render
from newllm.runs.folder import notebook_run
from newllm.runs.lock import RunError
from newllm.runs.outlook import Outlook
from newllm.runs.records_table import load_records
from newllm.runs.watching import View
from newllm.wording import describe_seconds

logger = logging.getLogger(__name__)

FULL_COMPARISON = "newllm sweep sotu"


class PageView:
    """The page while models are trained, written every few seconds; the terminal beside it.

    Parameters
    ----------
    page
        What is known before.
    target
        Where the page is.
    beside
        The view that is shown as well.
    """

    def __init__(self, page: StartPage, target: Path, beside: View) -> None:
        self.page, self.target, self.beside = page, target, beside
        self._written = 0.0
        self._lock = threading.Lock()

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


def run(options: argparse.Namespace, target: Path) -> int:
    """Train the models and keep the page up to date.

    Parameters
    ----------
    options
        As `newllm.commands.arguments.start` reads them.
    target
        Where the page is.
    """
    parameters = planned_runs(options)[0]
    assert isinstance(parameters, ExperimentParameters)
    page = StartPage("The text is read and cut into tokens.", first_picture=published_picture())
    view = PageView(page, target, view_of_this_terminal())
    try:
        folder = notebook_run(parameters).folder
        check_before_work(parameters)
        with _filled_in(view):
            is_finished = run_notebook(parameters, given_parameters(options), view)
    except (ParameterError, RunError) as error:
        view.update(state=f"Nothing was run: {error}", is_done=True)
        logger.error("%s", error)
        return 2
    if not is_finished:
        view.update(state="The run failed; the terminal says why.", is_done=True)
        return 1
    view.update(**outcome(folder, parameters))
    show_results([parameters])
    logger.info("\nThe page: %s\nThe report: %s", target, folder / REPORT_FILE)
    return 0


@contextmanager
def _filled_in(view: PageView) -> Iterator[None]:
    """Put what is published and the calculator on the page meanwhile: reading them takes seconds."""

    def fill() -> None:
        picture, methods = published()
        view.update(published=picture, methods=methods)
        view.update(calculator=calculator())

    filling = threading.Thread(target=fill, daemon=True)
    filling.start()
    try:
        yield
    except KeyboardInterrupt:
        view.update(state="Interrupted; the same command goes on from there.", is_done=True)
        raise
    filling.join()


def outcome(folder: Path, parameters: ExperimentParameters) -> dict[str, Any]:
    """Return what the page of a finished run shows, by the names of the fields of `StartPage`.

    Parameters
    ----------
    folder
        The run's.
    parameters
        Of the run.
    """
    records = load_records(folder)
    found, floor, summary = results(records, parameters.prompts[0])
    picture, methods = published(summary, parameters.size)
    return {
        "state": "Done. Each model was trained from nothing on the same text, and tested on text that none saw.",
        "is_done": True,
        "results": found,
        "floor": floor,
        "published": picture,
        "methods": methods,
        "paths": {
            "The report: tables, and figures that answer to the pointer": str(folder / REPORT_FILE),
            "The executed notebook": str(folder / f"{parameters.notebook}.ipynb"),
            "Records, weights, tables and pictures": str(folder),
        },
        "commands": {
            "Let the last model go on from a beginning of yours": _talk(records["folder"].iloc[-1] / SAVED_MODEL),
            "Train on your own text": 'newllm start -p source=text -p "text_files=[FOLDER]"',
            "The full comparison on all the text: half an hour of a core for each arm and seed": FULL_COMPARISON,
        },
    }


def _talk(model: Path) -> str:
    """Return the command that lets a model write."""
    program = (
        "import newllm; from transformers import pipeline; "
        f"print(pipeline('text-generation', {str(model)!r})('The people', max_new_tokens=60)[0]['generated_text'])"
    )
    return f'{shlex.quote(sys.executable)} -c "{program}"'
