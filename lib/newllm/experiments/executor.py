"""Trials side by side: run in this process or in several, each on its share of the cores."""

import multiprocessing
import os
import signal
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor, as_completed
from contextlib import contextmanager
from functools import partial

import torch
from transformers.utils import logging as transformers_logging

from newllm.data import TextData
from newllm.experiments.trial import Trial
from newllm.runs.record import Record
from newllm.runtime import environment


def run_side_by_side(
    run_trial: Callable[[Trial, TextData], Record], trials: Sequence[Trial], data: TextData, processes: int
) -> Iterator[tuple[Trial, Exception | None]]:
    """Run trials in this process or in several, and yield each when it is done, with its error if it failed.

    Parameters
    ----------
    run_trial
        Runs one trial; a function of a module, as other processes find it by its name.
    trials
        What to run; none of them may need another one.
    data
        Training and held-out windows, the same for all.
    processes
        How many trials run at the same time; with 1, all run in this process.
    """
    if processes == 1:
        for trial in trials:
            yield trial, error_of(partial(run_trial, trial, data))
        return
    threads = threads_of_each(processes)
    context = multiprocessing.get_context("spawn")
    # Progress bars of several processes would write over one another; tqdm reads the variable when it is imported.
    with (
        environment(TQDM_DISABLE="1"),
        ProcessPoolExecutor(processes, context, _start_worker, (threads,)) as pool,
    ):
        with _interrupt_held_back():
            futures: dict[Future[Record], Trial] = {pool.submit(run_trial, trial, data): trial for trial in trials}
        for future in as_completed(futures):
            yield futures[future], error_of(future.result)


def threads_of_each(processes: int) -> int:
    """Return how many cores each of so many processes gets."""
    return max(1, (os.cpu_count() or 1) // processes)


@contextmanager
def _interrupt_held_back() -> Iterator[None]:
    """Hold Ctrl-C back, also in processes that are started: a traceback of each one's imports would come of it."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _start_worker(threads: int) -> None:
    """Give a process its share of the cores, and leave the terminal to the process that waits for it."""
    # Ctrl-C reaches all processes of a terminal: this one ends in silence, and its trial goes on at the next start.
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})
    torch.set_num_threads(threads)
    transformers_logging.set_verbosity_error()


def error_of(run: Callable[[], object]) -> Exception | None:
    """Return what went wrong, if anything did."""
    try:
        run()
    except Exception as error:
        return error
    return None
