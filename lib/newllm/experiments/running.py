"""One trial from its start to its record: built, treated, trained, scored, recorded."""

import time
from pathlib import Path

from newllm.data import TextData
from newllm.evaluation.memory import peak_memory
from newllm.experiments.recipes import RECIPES, TRAINING_FOLDER
from newllm.experiments.scoring import Subject, score, write_scores
from newllm.experiments.trial import Trial, lender_of
from newllm.files import SAVED_MODEL
from newllm.runs.folder import Run
from newllm.runs.progress import written_progress
from newllm.runs.record import CertificateResult, Record
from newllm.runs.saving import save_trained_model
from newllm.runtime import choose_device, move, no_progress_bar
from newllm.training.checkpoints import WEIGHTS

# Time between two looks at the memory of a training.
MEMORY_SECONDS = 0.05


def run_trial(trial: Trial, data: TextData) -> Record:
    """Build, train, evaluate, certify and record one arm with one seed; what is finished is read, not run again.

    A trial that borrows an embedding runs the trial that lends it first; ``duration_seconds`` leaves that out.

    The folder of the trial then holds ``record.json``, ``evaluation.json`` (positions, window losses, diagnosis),
    ``history.json`` (main and projection training) and ``model``, which ``from_pretrained`` loads with its tokenizer.

    Parameters
    ----------
    trial
        The arm, the seed and where to.
    data
        Training and held-out windows.

    Raises
    ------
    CertificateError
        Where the trained model does not pass the causality certificate.
    """
    run = trial.run()
    if run.is_finished:
        return run.record()
    lender = lender_of(trial)
    if lender is not None:
        run_trial(lender, data)
    with run.work():
        # Another process may have finished it while this one waited.
        return run.record() if run.is_finished else _run(trial, run, data)


def train_beside(trial: Trial, data: TextData) -> None:
    """Take part in main training of a trial that the first of several processes runs; nothing is written here.

    Parameters
    ----------
    trial, data
        As in `run_trial`.
    """
    _train(trial, trial.run().folder, data)


def _run(trial: Trial, run: Run, data: TextData) -> Record:
    """Run a trial in its folder, which is locked."""
    run.start()
    run.remove_leftovers()
    _put_weights_back(run.folder)
    start = time.perf_counter()
    with written_progress(run.folder):
        with peak_memory(choose_device(trial.parameters.device), MEMORY_SECONDS) as memory:
            subject = _train(trial, run.folder, data)
        record = record_scores(subject, data, run, start, memory.peak)
        _save(subject, data, run.folder)
        run.finish(record.duration_seconds, record)
    return record


def _train(trial: Trial, folder: Path, data: TextData) -> Subject:
    """Build the model of a trial, and train it, recurrences first, as its recipe and its treatment say."""
    device = choose_device(trial.parameters.device)
    model = trial.arm.build(trial.parameters, len(data.tokenizer), trial.seed)
    move(model, device)
    trained = RECIPES[model.recipe].train(trial, model, data, folder, device)
    return Subject(trial.arm.name, trial.arm.method, trial.seed, trial.parameters, model, trained)


def record_scores(subject: Subject, data: TextData, run: Run, start: float, peak_memory: int | None = None) -> Record:
    """Score a model, write what was found, and describe it in a record, which finishes the run."""
    trained_until = time.perf_counter()
    scores = score(subject, data)
    write_scores(subject, scores, data, run)
    now = time.perf_counter()
    # What a process trained that was stopped is known from the history that it left.
    training = sum(row["seconds"] for row in subject.trained.main.history) if subject.trained else 0.0
    return Record(
        notebook=subject.parameters.notebook,
        profile=subject.parameters.profile,
        arm=subject.arm,
        method=subject.method,
        size=run.identity.get("size", subject.parameters.size),
        seed=subject.seed,
        parameters=run.identity,
        parameter_count=subject.model.num_parameters(),
        metrics=scores.metrics,
        cache=scores.cache,
        certificate=CertificateResult(passed=True, max_change=scores.certificate.max_change),
        continuations=scores.continuations,
        duration_seconds=max(now - start, training + now - trained_until),
        peak_memory=peak_memory,
    )


def _save(subject: Subject, data: TextData, folder: Path) -> None:
    """Save the trained model with its tokenizer."""
    with no_progress_bar():
        save_trained_model(folder / SAVED_MODEL, subject.model, data.tokenizer)
    # The same weights lie in the folder `model` now.
    (folder / TRAINING_FOLDER / WEIGHTS).unlink(missing_ok=True)


def _put_weights_back(folder: Path) -> None:
    """Give main training its weights back, from a trial that was finished and is damaged elsewhere."""
    trained, saved = folder / TRAINING_FOLDER / WEIGHTS, folder / SAVED_MODEL / WEIGHTS
    if trained.parent.is_dir() and saved.is_file() and not trained.is_file():
        saved.rename(trained)
