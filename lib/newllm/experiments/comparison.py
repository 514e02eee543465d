"""Arms compared: every arm with every seed is run, a trial each, and their records stand in one table."""

import logging
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

import pandas as pd

from newllm.config.experiment import ExperimentParameters
from newllm.data import TextData
from newllm.experiments.arms import trained_arms
from newllm.experiments.benchmark_study import ask_benchmarks, check_benchmark_hub
from newllm.experiments.checkpoints import checkpoints_of, score_checkpoint
from newllm.experiments.executor import run_side_by_side
from newllm.experiments.floor import make_floor
from newllm.experiments.readiness import check_with_data
from newllm.experiments.reuse import lenders_of, take_over, to_train, unfinished
from newllm.experiments.running import run_trial
from newllm.experiments.timing import ended, expected_stages, plan_of
from newllm.experiments.trial import Trial, lender_of
from newllm.runs.folder import among_outputs
from newllm.runs.outlook import outlook
from newllm.runs.records_table import load_records
from newllm.runs.saved_model import check_pretrained
from newllm.runs.watching import watched
from newllm.wording import count, describe_seconds

logger = logging.getLogger(__name__)


# Runs trials of which none needs another one, and yields each when it is done, with its error if it failed.
Runner = Callable[[Sequence[Trial]], Iterator[tuple[Trial, Exception | None]]]


class LenderFailedError(RuntimeError):
    """A trial was not run, because the one that was to lend it an embedding failed."""


class ComparisonError(RuntimeError):
    """Some trials of a comparison failed, after all the others were finished."""


def compare(
    parameters: ExperimentParameters, data: TextData, folder: Path, *, need_weights: bool = False
) -> pd.DataFrame:
    """Run every arm with every seed, each in a run folder of its own, and return their records.

    Finished trials are read, killed ones resumed, and equal ones that another notebook finished are taken over, except
    with ``rerun``. A trial that fails does not stop the others.

    Parameters
    ----------
    parameters
        Arms, seeds, and all settings of training. ``processes`` trials run side by side, sharing the cores.
    data
        Training and held-out windows, the same for all.
    folder
        Holds one folder a trial, named after arm and seed.
    need_weights
        Whether trials of elsewhere are taken over only where their weights are there, too.

    Returns
    -------
    pandas.DataFrame
        One row a trial, as `newllm.runs.records_table.load_records` gives them, in the order of arms and seeds; behind
        them one for each arm that is a trained model, and for pretrained weights. What ``benchmarks`` found is in the
        columns `newllm.experiments.benchmark_study.BENCHMARK_COLUMNS`.

    Raises
    ------
    ArmError
        Before anything runs, where an arm cannot be built.
    ValueError
        Before anything is trained, as `newllm.experiments.readiness.check_with_data`.
    HubUnavailableError
        Before anything is trained, where a benchmark of the hub cannot be read.
    ComparisonError
        After everything else has run, where a trial failed.
    """
    arms = trained_arms(parameters)
    trials = [Trial(arm, seed, parameters, folder, data.fingerprint) for seed in parameters.seeds for arm in arms]
    checkpoints = checkpoints_of(parameters)
    if waiting := unfinished(trials):
        check_with_data(waiting, data)
        for checkpoint in checkpoints:
            check_pretrained(checkpoint.where, data.tokenizer)
        check_benchmark_hub(parameters)
    make_floor(data, folder)
    failures = run_trials(trials, data, folder, parameters.processes, need_weights=need_weights)
    if failures:
        described = "; ".join(f"{trial}: {type(error).__name__}: {error}" for trial, error in failures.items())
        raise ComparisonError(
            f"{len(failures)} of {len(trials)} trials failed, the others are finished and kept ({described})."
        ) from next(iter(failures.values()))
    wanted = [(arm.name, seed) for arm in arms for seed in parameters.seeds]
    for checkpoint in checkpoints:
        score_checkpoint(checkpoint, parameters, data, folder)
    records = load_records(folder).set_index(["arm", "seed"], drop=False)
    # Of a trained model there may be scores of other weights, which lay in the same place before.
    scored = [records[records["folder"] == one.run(parameters, data, folder).folder] for one in checkpoints]
    rows = pd.concat([records.loc[wanted], *scored]).reset_index(drop=True)
    return ask_benchmarks(rows, parameters, folder, {checkpoint.name: checkpoint.where for checkpoint in checkpoints})


def run_trials(
    trials: Sequence[Trial],
    data: TextData,
    folder: Path,
    processes: int = 1,
    known: Mapping[Trial, Mapping[str, float]] | None = None,
    run_part: Runner | None = None,
    *,
    need_weights: bool = False,
) -> dict[Trial, Exception]:
    """Run trials, which may differ in any parameter but those of the data, and return those that failed.

    What is finished is left as it is, what was killed goes on, and what another notebook finished is taken over, except
    with ``rerun``. A trial that fails does not stop the others.

    Parameters
    ----------
    trials
        What to run.
    data
        Training and held-out windows, the same for all.
    folder
        Where it is said how far they are, while they run.
    processes
        How many trials run side by side, each on its share of the cores.
    known
        Seconds of the stages of trials as `expected_stages` gives them; those of the others are measured.
    run_part
        Runs them somewhere else, so many at a time; omitted, they run in processes of this machine.
    need_weights
        As for `compare`.

    Returns
    -------
    dict
        The error of each trial that failed.

    Raises
    ------
    ValueError
        Before anything is trained, as `newllm.experiments.readiness.check_with_data`.
    """
    again = any(trial.parameters.rerun for trial in trials)
    taken = [] if again else take_over(trials, need_weights=need_weights)
    waiting = to_train(trials)
    if taken:
        places = ", ".join(sorted({str(among_outputs(place.parent)) for place in taken}))
        logger.info(
            "%s finished before, taken over from %s%s.",
            count(len(taken), "trial"),
            places,
            "" if waiting else "; nothing is trained",
        )
    if not waiting:
        return {}
    check_with_data(waiting, data)
    stages = dict(known or {})
    stages |= expected_stages([trial for trial in waiting if trial not in stages], data, processes)
    lenders = lenders_of(waiting)
    # Whoever lends an embedding comes first: a process that waits for another one does nothing.
    parts = [[trial for trial in waiting if (trial in lenders) is is_lender] for is_lender in (True, False)]
    plan = plan_of([trial for part in parts for trial in part], stages, processes)
    logger.info(
        "%s to train: about %s.",
        count(len(waiting), "trial"),
        describe_seconds(outlook(plan, {}, plan.started_at).left),
    )
    failures: dict[Trial, Exception] = {}
    # Another process may work in this folder, too, so that the plan there need not be this one.
    with watched(lambda: plan), plan.written(folder):
        for part in parts:
            failed = {trial.run().key for trial in failures}
            for trial in part:
                lender = lender_of(trial)
                if lender is not None and lender.run().key in failed:
                    failures[trial] = LenderFailedError(f"{lender} failed, see there")
            able = [trial for trial in part if trial not in failures]
            done = run_part(able) if run_part else run_side_by_side(run_trial, able, data, processes)
            for trial, error in done:
                if error is not None:
                    logger.error("%s failed.", trial, exc_info=error)
                    failures[trial] = error
                plan = ended(plan, trial)
                plan.write(folder)
            if lenders and not again:
                # One that has been trained now may be wanted in another folder, too.
                take_over(trials, need_weights=need_weights)
    logger.info(
        "%s trained in %s.",
        count(len(waiting) - len(failures), "trial"),
        describe_seconds(time.time() - plan.started_at),
    )
    return failures
