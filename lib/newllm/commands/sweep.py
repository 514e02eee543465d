"""``newllm sweep``: the trials of a grid, run side by side, and the table of what came out."""

import argparse
import logging
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial

import pandas as pd

from newllm import figures
from newllm.analysis.learning_rates import best_learning_rates, judge, with_learning_rate
from newllm.analysis.rows import name_rows
from newllm.analysis.summary import baseline_among, summarize_arms
from newllm.commands.shared import read_assignments
from newllm.commands.terminal_table import as_text, terminal_width
from newllm.commands.terminal_view import view_of_this_terminal
from newllm.config.errors import ParameterError
from newllm.config.groups import LEARNING_RATES
from newllm.config.profiles import sweep_path
from newllm.config.values import read_value
from newllm.config.workers import LOCAL, SLURM
from newllm.experiments.comparison import Runner
from newllm.experiments.jobs import run_as_jobs
from newllm.experiments.planning import check_device
from newllm.experiments.sweep_run import SweepRun
from newllm.experiments.sweeps import GridPoint, load_sweep, plan
from newllm.experiments.trial import Trial
from newllm.notebook.tables import show_arms
from newllm.runs.folder import Run
from newllm.runs.lock import RunError
from newllm.runs.outlook import side_by_side
from newllm.runs.pictures import draw_pictures
from newllm.runs.watching import view_with
from newllm.wording import describe_seconds

logger = logging.getLogger(__name__)


def main(options: argparse.Namespace) -> int:
    """Do ``newllm sweep``: check a grid, run what is not finished of it, and show its table."""
    try:
        path = sweep_path(options.sweep)
        given = {key: text and read_value(text) for key, text in read_assignments(options.parameters).items()}
        planned = plan(load_sweep(path, given), given)
        if options.on in (None, LOCAL):
            check_devices(planned)
        # Before any text is read, which a scheduler that does not answer would make a waste.
        with open_place(options.on, options.processes or 1, is_rehearsal=options.dry_run) as place:
            run = SweepRun(path.stem, planned)
            expected = run.expected_stages(place.shared_by)
            announce(run, expected, place.count)
            if options.dry_run:
                logger.info("\n%s", as_text(run.outline(expected)))
                return 0
            started = time.monotonic()
            view_with(view_of_this_terminal)
            failures = run.train(expected, place.count, place.run_part)
    except (ValueError, RunError, OSError) as error:
        logger.error("%s", error)
        return 2
    show(run)
    if failures:
        report(failures)
        return 1
    run.run.finish(time.monotonic() - started)
    logger.info("%s", run.run.folder)
    return 0


def check_devices(planned: Sequence[GridPoint]) -> None:
    """Refuse devices and precisions that this machine, where the trials shall run, has not."""
    used = {(trial.parameters.device, trial.parameters.precision): trial.parameters for trial in planned}
    for parameters in used.values():
        check_device(parameters)


@dataclass(frozen=True)
class Place:
    """Where the trials run.

    Attributes
    ----------
    count
        How many run at a time.
    shared_by
        How many of them share this machine's cores.
    run_part
        Runs some of them; None for processes of this command.
    """

    count: int
    shared_by: int
    run_part: Runner | None = None


@contextmanager
def open_place(where: str | None, processes: int, *, is_rehearsal: bool) -> Iterator[Place]:
    """Open the workers on which the trials shall run.

    Parameters
    ----------
    where
        As ``--on`` gives it.
    processes
        How many are asked for.
    is_rehearsal
        Whether nothing will run: no process is started, no job is submitted, and the script of a job is shown.
    """
    if where is None or (is_rehearsal and where == LOCAL):
        yield Place(processes, processes)
        return
    # Here, because Dask is an extra.
    from newllm.experiments import workers

    if is_rehearsal and where == SLURM:
        logger.info("Each job:\n%s", workers.slurm_job_script())
        yield Place(processes, 1)
        return
    with workers.open_workers(where, processes) as opened:
        run_part = partial(run_as_jobs, executor=opened.executor)
        yield Place(opened.count, processes if where == LOCAL else 1, run_part)


def announce(run: SweepRun, expected: Mapping[Trial, Mapping[str, float]], count: int) -> None:
    """Log how many trials are finished, and how long the others take on so many workers."""
    seconds = side_by_side([], [sum(stages.values()) for stages in expected.values()], count)
    logger.info(
        "%s: %d trials, %d of them finished; the others take about %s%s.",
        run.run.folder.name,
        len(run.trials),
        len(run.finished),
        describe_seconds(seconds),
        f" on {count} workers like this machine" if count > 1 else "",
    )


def show(run: SweepRun) -> None:
    """Log and save the table of the finished trials and, where learning rates vary, what they say."""
    records = run.records()
    if records.empty:
        return
    named = records.assign(arm=name_rows(records, run.axes))
    baseline = baseline_among(named)
    summary = summarize_arms(named, baseline, by=run.axes)
    run.run.save_table(summary, "results")
    logger.info("\n%s", show_arms(summary, baseline).text(terminal_width()))
    varied = set(LEARNING_RATES) & set(run.axes)
    if varied:
        others = [axis for axis in run.axes if axis not in LEARNING_RATES]
        try:
            best = best_learning_rates(records, ["arm", *others])
            verdict = "" if others else judge(records)
        except ParameterError as error:
            logger.warning("No learning rate is called best: %s", error)
            return
        save_and_log(run.run, best, "best_learning_rates")
        logger.info("%s", verdict)
        if not others:
            run.run.save_figure(figures.learning_rates(with_learning_rate(records)), "learning_rates")
    draw_pictures(run.run.folder)


def save_and_log(run: Run, table: pd.DataFrame, name: str) -> None:
    """Put a table among the sweep's tables and on the terminal."""
    run.save_table(table, name)
    logger.info("\n%s", as_text(table))


def report(failures: Mapping[Trial, Exception]) -> None:
    """Say which trials failed, and that the others are kept."""
    for trial, error in failures.items():
        logger.error("%s failed: %s: %s (%s)", trial, type(error).__name__, error, trial.run().folder)
    # A refused value is refused again.
    again = not all(isinstance(error, ValueError) for error in failures.values())
    advice = "; run the same command again to go on with them" if again else ""
    logger.error("%d trials failed%s.", len(failures), advice)
