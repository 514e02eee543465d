"""The command ``newllm``: notebooks executed by papermill, each into its run folder, and tables of what came out."""

import argparse
import logging
import re
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import papermill
import yaml
from papermill.exceptions import PapermillExecutionError

from newllm.config import NOTEBOOKS, ParameterError, RunParameters, load_parameters, profiles, refuse_unknown
from newllm.durations import describe_seconds
from newllm.evaluation.survey import survey
from newllm.folders import project_root
from newllm.kernel import kernel_of_this_python
from newllm.models import sizes
from newllm.notebooks import refresh
from newllm.reference import publish, reference_folder
from newllm.runs import (
    Run,
    RunError,
    draw_pictures,
    earlier_seconds,
    load_records,
    notebook_run,
    summarize,
)

logger = logging.getLogger("newllm.cli")  # not __name__, which is __main__ under `python -m newllm.cli`


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit status: 0 done, 1 a notebook failed, 2 nothing could be started."""
    options = _parser().parse_args(arguments)
    _log_to_the_terminal()
    status: int = options.command(options)
    return status


def run_command(options: argparse.Namespace) -> int:
    """Do ``newllm run``: execute notebooks into their run folders and show the table of their results."""
    try:
        given = read_assignments(options.parameters)
        if options.rerun:
            given["rerun"] = True
        planned = plan(options.notebooks or available_notebooks(), options.profile, given)
    except (ParameterError, RunError) as error:
        logger.error("%s", error)
        return 2
    failed = [parameters.notebook for parameters in planned if not run_notebook(parameters, given)]
    show_results(planned)
    if failed:
        logger.error("Failed: %s. What was finished is kept; run the same command again to go on.", ", ".join(failed))
    return 1 if failed else 0


def refresh_command(options: argparse.Namespace) -> int:
    """Do ``newllm refresh``: execute the notebooks where they are, so that they can be read without running."""
    try:
        names = [_full_name(name) for name in options.notebooks or available_notebooks()]
    except ParameterError as error:
        logger.error("%s", error)
        return 2
    for name in names:
        started = time.monotonic()
        refresh(notebooks_folder() / f"{name}.ipynb")
        logger.info("%s is refreshed, in %s.", name, describe_seconds(time.monotonic() - started))
    return 0


def publish_command(options: argparse.Namespace) -> int:
    """Do ``newllm publish``: take a comparison's records among the reference results, with the README's table."""
    try:
        publish(options.folder)
    except (ValueError, RuntimeError) as error:
        logger.error("%s", error)
        return 2
    logger.info("The records are in %s; the README shows them.", reference_folder())
    return 0


def models_command(options: argparse.Namespace) -> int:
    """Do ``newllm models``: build, count, certify and time models, and show them in one table."""
    try:
        table = survey(options.models or None, options.size, contexts=options.contexts, steps=options.steps)
    except ValueError as error:
        logger.error("%s", error)
        return 2
    logger.info("\n%s, float32, random weights\n%s", options.size, _as_text(table))
    return 0 if table["certificate"].all() else 1


def notebooks_folder() -> Path:
    """Return where the notebooks are."""
    return project_root() / "notebooks"


def available_notebooks() -> list[str]:
    """Return the names of the notebooks that have parameters, in their order."""
    return [name for name in sorted(NOTEBOOKS) if (notebooks_folder() / f"{name}.ipynb").is_file()]


def plan(names: Sequence[str], profile: str, given: Mapping[str, Any]) -> list[RunParameters]:
    """Check everything before anything is written.

    Parameters
    ----------
    names
        Names of notebooks, in full or by their number.
    profile
        A folder of ``params``.
    given
        Parameters that replace the profile's; each notebook takes those it knows.

    Returns
    -------
    list of RunParameters
        The parameters of each notebook.

    Raises
    ------
    ParameterError
        If a notebook is unknown, no notebook knows a parameter, or a value is impossible.
    RunError
        If a run folder holds something else.
    """
    notebooks = [_full_name(name) for name in names]
    refuse_unknown(given, notebooks)
    planned = []
    for notebook in notebooks:
        fields = NOTEBOOKS[notebook].model_fields
        planned.append(load_parameters(notebook, profile, {key: given[key] for key in given if key in fields}))
    for parameters in planned:
        notebook_run(parameters)
    return planned


def run_notebook(parameters: RunParameters, given: Mapping[str, Any]) -> bool:
    """Execute one notebook into its run folder, unless it is finished, and tell whether it is.

    Parameters
    ----------
    parameters
        The checked parameters.
    given
        What was given beside the profile; the notebook gets those of its own.
    """
    run = notebook_run(parameters)
    if parameters.rerun:
        run.clear()
    if run.is_finished:
        logger.info("%s is finished: %s (--rerun runs it again)", parameters.notebook, run.folder)
        return True
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
    # rerun is done with: in the notebook it would delete what papermill's run has written by then.
    passed = {
        key: value
        for key, value in parameters.model_dump(mode="json").items()
        if key == "profile" or (key in given and key != "rerun")
    }
    started = time.monotonic()
    try:
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
    run.finish(time.monotonic() - started)
    draw_pictures(run.folder)
    logger.info("%s took %s.", parameters.notebook, describe_seconds(time.monotonic() - started))
    return True


def show_results(planned: Sequence[RunParameters]) -> None:
    """Log the table of the results of these runs."""
    for parameters in planned:
        records = load_records(notebook_run(parameters).folder)
        if not records.empty:
            table = summarize(records).drop(columns=["notebook", "profile"])
            logger.info("\n%s (%s)\n%s", parameters.notebook, parameters.profile, _as_text(table))


def _execute(notebook: str, run: Run, passed: Mapping[str, Any]) -> None:
    """Run papermill; the notebook stands in the run folder as unfinished.ipynb until its last cell is done."""
    unfinished = run.folder / "unfinished.ipynb"
    with kernel_of_this_python():
        papermill.execute_notebook(
            notebooks_folder() / f"{notebook}.ipynb",
            unfinished,
            parameters=dict(passed),
            kernel_name="python3",
            language="python",
            progress_bar=sys.stderr.isatty(),
            log_output=True,
        )
    unfinished.replace(run.folder / f"{notebook}.ipynb")


def _full_name(name: str) -> str:
    matches = [notebook for notebook in available_notebooks() if notebook == name or notebook.startswith(f"{name}_")]
    if not matches:
        raise ParameterError(f"{name} is not one of the notebooks: {', '.join(available_notebooks())}.")
    return matches[0]


def read_assignments(assignments: Sequence[str]) -> dict[str, Any]:
    """Read parameters given as ``key=value``; the value is YAML, so ``[0, 1]`` is a list.

    Raises
    ------
    ParameterError
        If one has another form.
    """
    given = {}
    for assignment in assignments:
        key, equals, value = assignment.partition("=")
        if not equals:
            raise ParameterError(f"-p {assignment} is not of the form -p key=value.")
        try:
            given[key.strip()] = yaml.safe_load(value)
        except yaml.YAMLError:
            raise ParameterError(
                f"{key} is {value!r}, which is not a number, a word or a list such as [a, b]."
            ) from None
    return given


def _as_text(table: Any) -> str:
    formats = {
        "parameters": "{:,.0f}",
        "KV bytes/token": "{:,.0f}",
        "PPL": "{:.2f}",
        "±": "{:.2f}",
        "bits/byte": "{:.3f}",
        "values_per_token": "{:,.1f}",
        "bytes_per_token": "{:,.1f}",
        "state_bytes": "{:,.0f}",
        "saved": "{:.2%}",
        "largest_leak": "{:.0e}",
        "cache_error": "{:.0e}",
    }
    shown = table.copy()
    for column in table:
        pattern = "{:.1f}" if column.startswith("tokens_per_second") else formats.get(column, "{}")
        shown[column] = [pattern.format(value) if value == value else "" for value in table[column]]
    return shown.to_string(index=False)


def _log_to_the_terminal() -> None:
    """Show the library's messages, and through papermill those of the notebook."""
    handler = logging.StreamHandler(sys.stdout)
    handler.setFormatter(logging.Formatter("%(message)s"))
    for name in ("newllm", "papermill"):
        named = logging.getLogger(name)
        named.handlers = [handler]
        named.setLevel(logging.INFO)
        named.propagate = False
    # papermill says when a cell begins and ends, and shows a progress bar once, at its start.
    noise = re.compile(r"Executing (Cell|notebook)|Ending Cell|(Input|Output) Notebook:|\s*(0%\|.*)?$")
    logging.getLogger("papermill").addFilter(lambda message: not noise.match(message.getMessage()))
    logging.getLogger("papermill.translators").setLevel(logging.ERROR)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="newllm", description="Run the notebooks of newllm.")
    commands = parser.add_subparsers(required=True, metavar="command")
    run = commands.add_parser("run", help="execute notebooks and show the table of their results")
    run.add_argument(
        "notebooks", nargs="*", help="numbers or names, such as 02 or 02_main_training; all of them if none"
    )
    run.add_argument("--profile", default="smoke", choices=profiles(), help="whose parameters (smoke)")
    run.add_argument(
        "-p",
        dest="parameters",
        action="append",
        default=[],
        metavar="key=value",
        help="replace a parameter; repeatable",
    )
    run.set_defaults(command=run_command)
    run.add_argument("--rerun", action="store_true", help="delete what is finished and run it again")
    refresh = commands.add_parser("refresh", help="execute the committed notebooks in place, with pictures (smoke)")
    refresh.add_argument("notebooks", nargs="*", help="numbers or names; all of them if none")
    refresh.set_defaults(command=refresh_command)
    published = commands.add_parser("publish", help="put a comparison's records into outputs/reference and the README")
    published.add_argument("folder", type=Path, help="the run folder of a finished comparison")
    published.set_defaults(command=publish_command)
    models = commands.add_parser("models", help="one table of all models: size, cache, certificate, speed of decoding")
    models.add_argument("models", nargs="*", help="names, such as mla; all of them if none")
    models.add_argument("--size", default="70m", help="one of " + ", ".join(sizes()) + " (70m)")
    models.add_argument(
        "--contexts",
        nargs="*",
        type=int,
        default=[1024, 8192],
        metavar="TOKENS",
        help="lengths of context at which decoding is timed (1024 8192); nothing after it leaves timing out",
    )
    models.add_argument("--steps", type=int, default=16, help="timed tokens for each model and context (16)")
    models.set_defaults(command=models_command)
    return parser


if __name__ == "__main__":
    sys.exit(main())
