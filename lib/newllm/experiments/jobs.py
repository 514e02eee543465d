"""A trial as a job for any machine that sees its folder: which one it is travels, and nothing of its state."""

import functools
import logging
import socket
from collections.abc import Iterator, Sequence
from concurrent.futures import Executor, as_completed
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from newllm.config.experiment import ExperimentParameters
from newllm.config.notebooks import NOTEBOOKS
from newllm.config.values import read_file
from newllm.data import TextData, prepare_data
from newllm.experiments.arms import Arm
from newllm.experiments.executor import error_of
from newllm.experiments.running import run_trial
from newllm.experiments.trial import Trial
from newllm.files import write_atomically
from newllm.runs.lock import RunError
from newllm.runtime import commit, errors_only

PARAMETERS_FILE = "parameters.yaml"


@dataclass(frozen=True)
class Job:
    """Which trial is to be run.

    Attributes
    ----------
    folder
        Holds the folder of the trial, and the parameters.
    notebook
        Whose parameters these are.
    arm, seed
        Which trial.
    data
        Fingerprint of the windows.
    version
        Commit of whoever hands the job out; None where there is no clone.
    """

    folder: str
    notebook: str
    arm: str
    seed: int
    data: str
    version: str | None

    @classmethod
    def of(cls, trial: Trial, version: str | None) -> Self:
        """Describe a trial."""
        folder = str(trial.folder.absolute())
        return cls(folder, trial.parameters.notebook, trial.arm.name, trial.seed, trial.data, version)


def run_as_jobs(trials: Sequence[Trial], executor: Executor) -> Iterator[tuple[Trial, Exception | None]]:
    """Hand trials out as jobs, and yield each when it is done, with its error if it failed.

    Parameters
    ----------
    trials
        What to run; none of them may need another one.
    executor
        Runs functions elsewhere, on machines that see the trials' folders by the same paths and run the same code.
    """
    for trial in trials:
        write_atomically(trial.folder / PARAMETERS_FILE, trial.parameters.to_yaml())
    version = commit()
    jobs = {executor.submit(run_job, Job.of(trial, version)): trial for trial in trials}
    for job in as_completed(jobs):
        yield jobs[job], error_of(job.result)


def run_job(job: Job) -> None:
    """Run a trial in its folder, or go on with it there; the result is in the folder.

    Raises
    ------
    RunError
        Where this machine has other code or other text than whoever hands the job out.
    """
    host = socket.gethostname()
    if commit() != job.version:
        raise RunError(f"{host} runs newllm at {commit()}, the sweep at {job.version}: bring both to one commit.")
    folder = Path(job.folder)
    stored = read_file(folder / PARAMETERS_FILE)
    parameters = NOTEBOOKS[job.notebook].model_validate({**stored, "arms": [job.arm], "seeds": [job.seed]})
    assert isinstance(parameters, ExperimentParameters)
    with errors_only():
        data = _prepared(parameters.model_copy(update={"arms": (), "seeds": ()}))
        if data.fingerprint != job.data:
            raise RunError(f"{host} reads other text than the sweep: give both the same files, packages and tokenizer.")
        run_trial(Trial(Arm.parse(job.arm), job.seed, parameters, folder, job.data), data)


# Trials of one sweep mostly read the same windows, and a worker runs one after the other.
@functools.lru_cache(maxsize=1)
def _prepared(parameters: ExperimentParameters) -> TextData:
    """Prepare windows without a word: whoever hands the jobs out has said what there is to say of them."""
    messages = logging.getLogger("newllm.data")
    level = messages.level
    messages.setLevel(logging.ERROR)
    try:
        return prepare_data(parameters)
    finally:
        messages.setLevel(level)
