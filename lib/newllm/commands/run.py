"""``newllm run``: notebooks executed by papermill, each into its run folder, and the table of what came out."""

import argparse
import logging
import time
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import papermill
from papermill.exceptions import PapermillExecutionError

from newllm.analysis.rows import name_rows
from newllm.analysis.summary import baseline_among, summarize_arms
from newllm.commands.arguments.run import given_parameters, planned_runs
from newllm.commands.offered import as_called_here
from newllm.commands.shared import available_notebooks, notebook_path, notebook_title
from newllm.commands.terminal_table import terminal_width
from newllm.commands.terminal_view import view_of_this_terminal
from newllm.config.errors import ParameterError
from newllm.config.groups import RunParameters
from newllm.config.profiles import load_parameters
from newllm.experiments.idle import given_in_vain, refuse_in_vain
from newllm.experiments.planning import check_before_work
from newllm.notebook.kernel import KernelDiedError, kernel_of_this_python
from newllm.notebook.tables import show_arms
from newllm.publication.report import REPORT_FILE, write_report
from newllm.runs.folder import Run, earlier_seconds, notebook_run
from newllm.runs.lock import RunError
from newllm.runs.pictures import draw_pictures
from newllm.runs.progress import read_plan
from newllm.runs.records_table import load_records
from newllm.runs.watching import View, watched
from newllm.wording import describe_seconds, escape_control_characters

logger = logging.getLogger(__name__)


def main(options: argparse.Namespace) -> int:
    """Do ``newllm run``: execute notebooks into their run folders and show the table of their results."""
    if not options.notebooks:
        show_notebooks()
        return 0
    given = given_parameters(options)
    try:
        planned = planned_runs(options)
        for parameters in planned:
            notebook_run(parameters)
            check_before_work(parameters)
        planned, given_of = _without_what_is_idle(planned, given)
    except (ParameterError, RunError) as error:
        logger.error("%s", error)
        return 2
    failed = [
        parameters.notebook for parameters in planned if not run_notebook(parameters, given_of[parameters.notebook])
    ]
    show_results(planned)
    if failed:
        logger.error(
            "Failed: %s. What was finished is kept; unless a parameter was refused, the same command goes on.",
            ", ".join(failed),
        )
    return 1 if failed else 0


def _without_what_is_idle(
    planned: Sequence[RunParameters], given: Mapping[str, Any]
) -> tuple[list[RunParameters], dict[str, Mapping[str, Any]]]:
    """Leave out for each notebook what does nothing for its arms; ParameterError where no notebook has a use for it.

    So ``newllm run all -p max_iterations=10`` is for those that train a projection.
    """
    in_vain = {parameters.notebook: given_in_vain(parameters, given) for parameters in planned}
    used = {
        name
        for each in planned
        for name in given
        if name in type(each).model_fields and name not in in_vain[each.notebook]
    }
    given_of: dict[str, Mapping[str, Any]] = {}
    kept: list[RunParameters] = []
    for parameters in planned:
        idle = in_vain[parameters.notebook]
        if not set(idle) <= used:
            refuse_in_vain(parameters, {name: value for name, value in given.items() if name not in used})
        own = {name: value for name, value in given.items() if name not in idle}
        given_of[parameters.notebook] = own
        known = {name: value for name, value in own.items() if name in type(parameters).model_fields}
        kept.append(load_parameters(parameters.notebook, parameters.profile, known) if idle else parameters)
    return kept, given_of


def show_notebooks() -> None:
    """Log which notebooks there are, by the question that each one asks."""
    titles = [f"  {name[:2]}  {notebook_title(name)}" for name in available_notebooks()]
    one, every = as_called_here("newllm run 02"), as_called_here("newllm run all")
    logger.info("Which one? For example: %s\n%s\n  all of them: %s", one, "\n".join(titles), every)


def run_notebook(parameters: RunParameters, given: Mapping[str, Any], view: View | None = None) -> bool:
    """Execute one notebook into its run folder, unless it is finished, and tell whether it is.

    Parameters
    ----------
    parameters
        The checked parameters.
    given
        What was given beside the profile; the notebook gets those of its own.
    view
        Where it is shown how far its comparison is; the terminal where omitted.
    """
    run = notebook_run(parameters)
    try:
        if run.is_finished and not parameters.rerun:
            return _say_finished(run, parameters)
        with run.work():
            if parameters.rerun:
                run.clear()
            # Another process may have finished it while this one waited.
            return _say_finished(run, parameters) if run.is_finished else _run_notebook(run, parameters, given, view)
    except RunError as error:
        logger.error("%s failed: %s", parameters.notebook, error)
        return False


def _say_finished(run: Run, parameters: RunParameters) -> bool:
    logger.info("%s is finished: %s (--rerun runs it again)", parameters.notebook, run.folder)
    return True


def _run_notebook(run: Run, parameters: RunParameters, given: Mapping[str, Any], view: View | None) -> bool:
    """Execute a notebook into its run folder, which is locked."""
    seconds = earlier_seconds(parameters.notebook, parameters.profile)
    logger.info(
        "%s %s in %s; %s.",
        parameters.notebook,
        "goes on" if run.is_started else "starts",
        run.folder,
        f"the last one took {describe_seconds(seconds)}"
        if seconds
        else "none was run before to tell how long it takes",
    )
    run.start()
    passed = {
        key: value for key, value in parameters.model_dump(mode="json").items() if key == "profile" or key in given
    }
    started = time.monotonic()
    try:
        with watched(partial(read_plan, run.folder, since=time.time()), view or view_of_this_terminal()):
            _execute(parameters.notebook, run, passed)
    except PapermillExecutionError as error:
        logger.error(
            "%s failed in cell %s: %s: %s\nSee %s",
            parameters.notebook,
            error.exec_count,
            error.ename,
            error.evalue,
            run.folder / "unfinished.ipynb",
        )
        return False
    except KernelDiedError as error:
        logger.error("%s failed: %s", parameters.notebook, error)
        return False
    draw_pictures(run.folder)
    report = write_report(run.folder / f"{parameters.notebook}.ipynb", run.folder / REPORT_FILE)
    run.finish(time.monotonic() - started)
    logger.info("%s took %s: %s", parameters.notebook, describe_seconds(time.monotonic() - started), report)
    return True


def show_results(planned: Sequence[RunParameters]) -> None:
    """Log the table of the results of these runs."""
    for parameters in planned:
        records = load_records(notebook_run(parameters).folder)
        if not records.empty:
            named = records.assign(arm=name_rows(records))
            baseline = baseline_among(named)
            table = show_arms(summarize_arms(named, baseline), baseline).text(terminal_width())
            logger.info("\n%s (%s)\n%s", parameters.notebook, parameters.profile, table)


def _execute(notebook: str, run: Run, passed: Mapping[str, Any]) -> None:
    """Run papermill; the notebook stands in the run folder as unfinished.ipynb until its last cell is done."""
    unfinished = run.folder / "unfinished.ipynb"
    said = _Said()
    with kernel_of_this_python():
        papermill.execute_notebook(
            notebook_path(notebook),
            unfinished,
            parameters=dict(passed),
            kernel_name="python3",
            language="python",
            progress_bar=False,
            stdout_file=said,
            stderr_file=said,
        )
    unfinished.replace(run.folder / f"{notebook}.ipynb")


class _Said:
    """What a notebook prints, in the log. What it displays is for the report: in a terminal the results come last."""

    def write(self, text: str) -> None:
        """Log a message of the kernel, which ends a line of its own or not."""
        if text.strip():
            logger.info("%s", escape_control_characters(text.removesuffix("\n")))

    def flush(self) -> None:
        """Do nothing: a message is logged whole."""
