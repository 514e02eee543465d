"""The experiment: an arm and a seed become a trained, evaluated, certified and recorded model; arms are compared."""

import logging
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

import pandas as pd

from newllm.config.groups import ExperimentParameters
from newllm.data import TextData
from newllm.experiments.arms import Arm
from newllm.experiments.executor import run_side_by_side
from newllm.experiments.recipes import RECIPES
from newllm.experiments.scoring import PRETRAINED, score_model, score_pretrained
from newllm.experiments.timing import Clock, expected_seconds
from newllm.experiments.trial import Cell, embedding_cell
from newllm.files import outputs_folder
from newllm.runs.folder import SAVED_MODEL
from newllm.runs.record import Record, load_records
from newllm.runtime import choose_device, no_progress_bar

logger = logging.getLogger(__name__)


class ComparisonError(RuntimeError):
    """Some cells of a comparison failed, after all the others were finished."""


def run_cell(cell: Cell, data: TextData) -> Record:
    """Build, train, evaluate, certify and record one arm with one seed; what is finished is read, not run again.

    A cell that borrows an embedding runs the cell that lends it first; ``duration_seconds`` leaves that out.

    The folder of the cell then holds ``record.json``, ``evaluation.json`` (positions, window losses, diagnosis),
    ``history.json`` (main and projection training) and ``model``, which ``from_pretrained`` loads with its tokenizer.

    Parameters
    ----------
    cell
        The arm, the seed and where to.
    data
        Training and held-out windows.

    Raises
    ------
    CertificateError
        Where the trained model does not pass the causality certificate.
    """
    run = cell.run()
    if run.is_finished:
        return run.record()
    lender = embedding_cell(cell)
    if lender is not None:
        run_cell(lender, data)
    run.start()
    start = time.perf_counter()
    device = choose_device(cell.parameters.device)
    model = cell.arm.build(cell.parameters, len(data.tokenizer), cell.seed)
    recipe = RECIPES[model.training_recipe]
    trained = recipe.train(cell, model.to(device), data, run.folder, device)  # type: ignore[arg-type]
    record = score_model(run, cell.parameters, cell.arm.name, cell.arm.method, cell.seed, model, data, trained, start)
    with no_progress_bar():
        model.save_pretrained(run.folder / SAVED_MODEL)
    data.tokenizer.save_pretrained(run.folder / SAVED_MODEL)
    run.finish(record.duration_seconds, record)
    # The same weights lie in the folder `model` now.
    (run.folder / "training" / "model.safetensors").unlink(missing_ok=True)
    return record


def compare(parameters: ExperimentParameters, data: TextData, folder: Path) -> pd.DataFrame:
    """Run every arm with every seed, each in a run folder of its own, and return their records.

    Finished cells are read, killed ones resumed, and equal ones that another notebook finished are taken over, except
    with ``rerun``. A cell that fails does not stop the others.

    Parameters
    ----------
    parameters
        Arms, seeds, and all settings of training. ``processes`` cells run side by side, each on its share of the cores.
    data
        Training and held-out windows, the same for all.
    folder
        Holds one folder a cell, named after arm and seed.

    Returns
    -------
    pandas.DataFrame
        One row a cell, as `newllm.runs.record.load_records` gives them, in the order of arms and seeds.

    Raises
    ------
    ArmError
        Before anything runs, where an arm cannot be built.
    ComparisonError
        After everything else has run, where a cell failed.
    """
    arms = list(dict.fromkeys(Arm.parse(text) for text in parameters.arms))
    for arm in arms:
        arm.check(parameters)
    cells = [Cell(arm, seed, parameters, folder, data.fingerprint) for seed in parameters.seeds for arm in arms]
    failures = run_cells(cells, data, parameters.processes)
    if failures:
        described = "; ".join(f"{cell}: {type(error).__name__}: {error}" for cell, error in failures.items())
        raise ComparisonError(
            f"{len(failures)} of {len(cells)} cells failed, the others are finished and kept ({described})."
        ) from next(iter(failures.values()))
    wanted = [(arm.name, seed) for arm in arms for seed in parameters.seeds]
    if parameters.pretrained:
        score_pretrained(parameters, data, folder)
        wanted.append((PRETRAINED, 0))
    records = load_records(folder).set_index(["arm", "seed"], drop=False)
    return records.loc[wanted].reset_index(drop=True)


def run_cells(
    cells: Sequence[Cell], data: TextData, processes: int = 1, known: Mapping[Cell, float] | None = None
) -> dict[Cell, Exception]:
    """Run cells, which may differ in any parameter but those of the data, and return those that failed.

    What is finished is left as it is, what was killed goes on, and what another notebook finished is taken over, except
    with ``rerun``. A cell that fails does not stop the others.

    Parameters
    ----------
    cells
        What to run.
    data
        Training and held-out windows, the same for all.
    processes
        How many cells run side by side, each on its share of the cores.
    known
        Seconds of cells as `expected_seconds` gives them; those of the others are measured.

    Returns
    -------
    dict
        The error of each cell that failed.
    """
    for cell in unfinished(cells):
        if not cell.parameters.rerun:
            cell.run().take_over(outputs_folder())
    waiting = unfinished(cells)
    if not waiting:
        return {}
    seconds = dict(known or {})
    seconds |= expected_seconds([cell for cell in waiting if cell not in seconds], data)
    clock = Clock({cell: seconds[cell] for cell in waiting}, processes)
    lenders = {embedding_cell(cell) for cell in waiting}
    failures: dict[Cell, Exception] = {}
    # Whoever lends an embedding comes first: no two processes may run the same cell.
    for is_lender in (True, False):
        stage = [cell for cell in waiting if (cell in lenders) is is_lender]
        for cell, error in run_side_by_side(run_cell, stage, data, processes):
            if error is not None:
                logger.error("%s failed.", cell, exc_info=error)
                failures[cell] = error
            clock.finished(cell)
    return failures


def unfinished(cells: Sequence[Cell]) -> list[Cell]:
    """Return the cells that are still to be run, and those that lend them an embedding, each once.

    Raises
    ------
    RunError
        Where the folder of a cell holds something else.
    """
    waiting = [cell for cell in cells if not cell.run().is_finished]
    lenders = [lender for cell in waiting if (lender := embedding_cell(cell)) is not None]
    return [cell for cell in dict.fromkeys([*lenders, *waiting]) if not cell.run().is_finished]
