"""The work of ``newllm start`` and its page, from the first model to the last verdict."""

import argparse
import logging
import shlex
import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pandas as pd

from newllm.commands.arguments.run import given_parameters, planned_runs
from newllm.commands.offered import as_called_here, shown_from_here
from newllm.commands.page_view import PageView
from newllm.commands.run import run_notebook, show_results
from newllm.commands.terminal_view import view_of_this_terminal
from newllm.config.errors import ParameterError
from newllm.config.experiment import ExperimentParameters
from newllm.experiments.idle import refuse_in_vain
from newllm.experiments.planning import check_before_work
from newllm.files import SAVED_MODEL
from newllm.publication.report import REPORT_FILE
from newllm.publication.start_content import calculator, published, results
from newllm.publication.start_page import Result
from newllm.runs.folder import notebook_run
from newllm.runs.lock import RunError
from newllm.runs.records_table import load_records

logger = logging.getLogger(__name__)


def run(options: argparse.Namespace, view: PageView) -> int:
    """Train the models and keep the page up to date.

    Parameters
    ----------
    options
        As `newllm.commands.arguments.start` reads them.
    view
        The page.

    Raises
    ------
    ParameterError
        Where nothing can be run; the page is as it was.
    """
    parameters = planned_runs(options)[0]
    assert isinstance(parameters, ExperimentParameters)
    try:
        folder = notebook_run(parameters).folder
    except RunError as error:
        raise ParameterError(str(error)) from error
    check_before_work(parameters)
    refuse_in_vain(parameters, given_parameters(options))
    view.beside = view_of_this_terminal()
    view.update(state="The text is read and cut into tokens.")
    with _filled_in(view):
        is_finished = run_notebook(parameters, given_parameters(options), view)
    if not is_finished:
        view.update(state="The run failed; the terminal says why.", progress=(), is_done=True)
        return 1
    view.update(**outcome(folder, parameters))
    show_results([parameters])
    logger.info("%s", view.page.floor)
    logger.info("\nThe page: %s\nThe report: %s", view.target, folder / REPORT_FILE)
    for what, command in view.page.commands.items():
        logger.info("%s:\n  %s", what, command)
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
    yield
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
        "commands": _next_commands(found, records),
    }


def _next_commands(found: Sequence[Result], records: pd.DataFrame) -> dict[str, str]:
    """Return what to do next, by what it is for; the last model that is shown is the one that is talked to."""
    talks = {}
    speaking = [result.arm for result in found if result.spoken is not None]
    if speaking:
        record = records[records["arm"] == speaking[-1]].iloc[0]
        said = f"Let {record['arm']}, the last model above, go on from a beginning of yours"
        talks[said] = _talk(record["folder"] / SAVED_MODEL)
    return talks | {
        "Train on your own text": as_called_here('newllm start -p source=text -p "text_files=[FOLDER]"'),
        "The full comparison on all the text: half an hour of a core for each arm and seed": as_called_here(
            "newllm sweep sotu"
        ),
    }


def _talk(model: Path) -> str:
    """Return the command that lets a model write."""
    program = (
        "import newllm; from transformers import pipeline; "
        f"print(pipeline('text-generation', {shown_from_here(model)!r})"
        "('The people', max_new_tokens=60)[0]['generated_text'])"
    )
    return f'{shlex.quote(shown_from_here(Path(sys.executable)))} -c "{program}"'
