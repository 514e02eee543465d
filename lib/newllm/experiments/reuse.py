"""What of a comparison is finished: here, elsewhere, or by another trial that has to be trained anyway."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from newllm.experiments.trial import Trial, lender_of
from newllm.files import SAVED_MODEL, outputs_folder, reference_folder
from newllm.runs.folder import finished_runs


def unfinished(trials: Sequence[Trial]) -> list[Trial]:
    """Return the trials that are still to be run, behind those that have to lend them an embedding, each once.

    A lender without weights, as most published trials are, is to be run, too.

    Raises
    ------
    RunError
        Where the folder of a trial holds something else.
    """
    waiting = [trial for trial in trials if not trial.run().is_finished]
    lenders = [lender for lender in lenders_of(waiting) if not can_lend(lender)]
    return list(dict.fromkeys([*lenders, *waiting]))


def lenders_of(trials: Sequence[Trial]) -> list[Trial]:
    """Return the trials whose embeddings these ones take over, each once."""
    return list(dict.fromkeys(lender for trial in trials if (lender := lender_of(trial)) is not None))


def can_lend(trial: Trial) -> bool:
    """Say whether a trial is finished, and its trained model is still in its folder."""
    run = trial.run()
    return run.is_finished and (run.folder / SAVED_MODEL).is_dir()


def finished_elsewhere(trials: Sequence[Trial], *, need_weights: bool = False) -> dict[Trial, Path]:
    """Return where an equal run was finished of each trial that is still to be run, and was not begun here.

    Lenders are among them where somebody is left who needs their embedding, and then only with their weights.

    Parameters
    ----------
    trials
        Trials of a comparison.
    need_weights
        Whether only runs with weights count, whatever the trial.
    """
    finished = finished_runs(outputs_folder(), reference_folder())
    with_weights = {key: place for key, place in finished.items() if (place / SAVED_MODEL).is_dir()}
    waiting = [trial for trial in trials if not trial.run().is_finished]
    found = _look_up(waiting, with_weights if need_weights else finished)
    borrowing = [trial for trial in waiting if trial not in found]
    lenders = [lender for lender in lenders_of(borrowing) if not can_lend(lender)]
    return {trial: found[trial] for trial in found if trial not in lenders} | _look_up(lenders, with_weights)


def _look_up(trials: Sequence[Trial], finished: Mapping[str, Path]) -> dict[Trial, Path]:
    runs = {trial: trial.run() for trial in trials}
    return {
        trial: finished[run.key]
        for trial, run in runs.items()
        if run.key in finished and (run.is_finished or not run.is_started)
    }


def take_over(trials: Sequence[Trial], *, need_weights: bool = False) -> list[Path]:
    """Copy what was finished elsewhere into the folders of these trials, and return where it was.

    A lender that was finished here, but cannot lend its embedding any more, is deleted, so that it is run again.

    Parameters
    ----------
    trials, need_weights
        As for `finished_elsewhere`.
    """
    found = finished_elsewhere(trials, need_weights=need_weights)
    for trial in unfinished([trial for trial in trials if trial not in found]):
        run = trial.run()
        if run.is_finished and not can_lend(trial):
            run.clear()
    here = [(trial.run(), place) for trial, place in found.items()]
    return [place for run, place in here if run.take_over({run.key: place}) is not None]


def to_train(trials: Sequence[Trial]) -> list[Trial]:
    """Return the trials that are still to be run, and of lenders that are equal but for their folders the first.

    Equal ones are asked for by trials whose parameters differ in what does not reach their lender.
    """
    waiting = unfinished(trials)
    first = {trial.run().key: trial for trial in reversed(waiting)}
    return [trial for trial in waiting if first[trial.run().key] is trial]
