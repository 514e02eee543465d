"""The reference results: records, tables and pictures of finished runs, small enough to be committed."""

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path

import pandas as pd

from newllm import figures
from newllm.analysis.claims import comparisons_table, find_claims
from newllm.analysis.learning_rates import best_learning_rates, with_learning_rate
from newllm.analysis.rows import name_rows
from newllm.analysis.summary import baseline_among, summarize_arms
from newllm.config.errors import ParameterError
from newllm.experiments.floor import FLOORS_FOLDER, floor_files
from newllm.experiments.reversal import FOLDERS as REVERSAL_FOLDERS
from newllm.experiments.scoring import EVALUATION_FILE, HISTORY_FILE
from newllm.figures.style import say_where
from newllm.files import (
    FINISHED_FILE,
    SAVED_MODEL,
    copy_atomically,
    leads_inside,
    reference_folder,
    write_atomically,
)
from newllm.models.registry import BASELINE
from newllm.publication.leaderboard import read_board, seeds_in_words, settings_in_words
from newllm.publication.memory_page import PAGE_FILE, Passage, missing_passage, render, write_passage
from newllm.retrofit.report import LOSSES_FILE, REPORT_FILE, RESULT_FILE
from newllm.retrofit.running import RETROFITS_FOLDER
from newllm.runs.contents import identity_of, is_hidden
from newllm.runs.folder import SWEEPS_FOLDER, TABLES_FOLDER, Run, finished_runs
from newllm.runs.parts import is_part
from newllm.runs.pictures import FIGURES_FOLDER, write_pictures
from newllm.runs.publishing import (
    MOST_WEIGHTS,
    WEIGHTS,
    Publication,
    PublishingError,
    plan_publication,
    published_size,
    refuse_unfinished,
    tables_in,
)
from newllm.runs.record import RECORD_FILE, Record
from newllm.runs.records_table import load_records
from newllm.runs.sealed_record import read_sealed_record

logger = logging.getLogger(__name__)

KEPT_FILES = (RECORD_FILE, EVALUATION_FILE, HISTORY_FILE)
KEPT_FOLDERS = {TABLES_FOLDER: "*.csv", FIGURES_FOLDER: "*.png"}
PICTURE, CLAIMS_PICTURE = "quality_against_bytes.png", "claims.png"
LEADING_SWEEP = "sotu"
# Of arms at several rates and by several optimisers, and of budgets: nothing there tells methods apart.
RATES_SWEEP, ADAMW_SWEEP, BUDGETS_SWEEP = "learning_rates", "adamw", "budgets"
LENT_SWEEP = "lent_embedding"
TELL_NO_METHODS = (RATES_SWEEP, ADAMW_SWEEP, BUDGETS_SWEEP)

# Tables that claims are judged by, below the reference folder.
EVIDENCE = {
    "oacd": "01_projection_training/tables/oacd",
    "leak": "03_causal_masks/tables/leak",
    "reversal": "05_reversal_curse/tables/reversal",
    "collection": "09_cascade/tables/collection_speed",
}


class UnpublishedError(FileNotFoundError):
    """Results that are not among the published ones; the message names the command that makes them."""


def publish(run: Path, weights: Sequence[str] = ()) -> None:
    """Take the results of a run among the reference results, and renew README's picture.

    Each record goes to the folder of the notebook that made it, the floor of its data beside it; parts of the run,
    tables and drawn figures to that of this run's notebook. A sweep has a folder of its own: the same arm and seed may
    be in it with other parameters, and its table of results is of all that is published of it. Weights and checkpoints
    stay behind, but for the arms that are named. Where the baseline is among the records of a sweep of methods, the
    page "What does it remember?" is written beside them: a notebook may have trained it on other text than its
    parameters alone name.

    Parameters
    ----------
    run
        Folder of a finished run of a notebook, of a sweep, or of a retrofit.
    weights
        Arms whose models, of the lowest seed, are published in bfloat16.

    Raises
    ------
    ValueError
        Before anything is written, where the folder holds neither record, part nor retrofit, one of them is not
        finished or not as its run left it, one of ``weights`` is no arm of it, or all published weights together would
        be too large.
    """
    run = run.absolute()
    if (run / FINISHED_FILE).is_file():
        refuse_unfinished(run)
    retrofits, trials, parts = (_folders_of(run, name) for name in (RESULT_FILE, RECORD_FILE, FINISHED_FILE))
    for folder in (*trials, *retrofits):
        refuse_unfinished(folder)
    parts = [folder for folder in parts if _is_part(folder)]
    records = {folder: read_sealed_record(folder) for folder in trials}
    if not records and not parts and not retrofits:
        raise ValueError(f"{run} holds no record: give the folder of a finished run.")
    is_sweep = run.parent.name == SWEEPS_FOLDER
    home = reference_folder() / run.parent.name / (run.name if is_sweep else "")
    known = finished_runs(reference_folder())
    targets = {
        # What is published already stays where it is, whichever run asked for it.
        folder: known.get(Run(folder, record.parameters).key)
        or (home / folder.relative_to(run) if is_sweep else _of_notebook(folder, run, record))
        for folder, record in records.items()
    }
    with_model = _with_models(records, targets, weights)
    publications: list[Publication] = []
    copies: dict[Path, Path] = {}
    passages: dict[Path, Passage | None] = {}
    for folder, record in records.items():
        target = targets[folder]
        if (target / SAVED_MODEL).is_dir() and folder not in with_model:
            continue  # published with its weights, which are not here
        publications.append(plan_publication(folder, target, KEPT_FILES, with_model=folder in with_model))
        data = record.parameters.get("data")
        # What is published in a sweep has its floor there.
        for floor in [] if floor_files(target, data) else floor_files(folder, data):
            copies[(home if is_sweep else target.parent) / FLOORS_FOLDER / floor.name] = floor
        shows_memory = is_sweep and record.arm == BASELINE and run.name not in TELL_NO_METHODS
        if shows_memory and target.parent not in passages:
            passages[target.parent] = missing_passage(target.parent, record)
    publications += [plan_publication(folder, home / folder.relative_to(run), tables_in(folder)) for folder in parts]
    of_retrofits = reference_folder() / RETROFITS_FOLDER
    publications += [
        plan_publication(folder, of_retrofits / folder.name, (RESULT_FILE, REPORT_FILE, LOSSES_FILE))
        for folder in retrofits
    ]
    copies |= {home / kept: run / kept for kept in _tables_and_pictures(run)}

    # Nothing is refused from here on.
    for publication in publications:
        publication.write()
    for target, source in copies.items():
        copy_atomically(source, target)
    for place, passage in passages.items():
        if passage is not None:
            write_passage(place, passage)
        write_atomically(place / PAGE_FILE, render(place))
    if is_sweep:
        _write_results(home)
    draw_reference()


def _folders_of(run: Path, name: str) -> list[Path]:
    """Return the folders in a run that hold a file of this name, but for copies that are being made."""
    return [path.parent for path in sorted(run.rglob(name)) if not is_hidden(path, run)]


def _tables_and_pictures(run: Path) -> list[str]:
    """Return the names of the tables and pictures that lie in a run itself.

    Raises
    ------
    PublishingError
        Where one is a link to a file elsewhere.
    """
    names = [
        f"{kept}/{path.name}"
        for kept, pattern in KEPT_FOLDERS.items()
        for path in sorted((run / kept).glob(pattern))
        if not path.name.startswith(".")
    ]
    for name in names:
        if not leads_inside(run, name) or not (run / name).is_file():
            raise PublishingError(f"{run / name} is no file of this run: put the file itself there, or delete it.")
    return names


def _write_results(sweep: Path) -> None:
    """Write what all published trials of a sweep say: the run that is published may have trained some of them."""
    records = load_records(sweep)
    named = records.assign(arm=name_rows(records))
    summary = summarize_arms(named, baseline_among(named))
    write_atomically(sweep / TABLES_FOLDER / "results.csv", summary.to_csv(index=False))
    if sweep.name in (RATES_SWEEP, ADAMW_SWEEP):
        _write_rates(sweep, records)


def _write_rates(sweep: Path, records: pd.DataFrame) -> None:
    table, picture = sweep / TABLES_FOLDER / "best_learning_rates.csv", sweep / FIGURES_FOLDER / "learning_rates.png"
    try:
        best = best_learning_rates(records)
    except ParameterError as error:
        logger.warning("No learning rate is called best: %s", error)
        # Those of the run that is published are of its own trials alone.
        for path in (table, picture):
            path.unlink(missing_ok=True)
        return
    write_atomically(table, best.to_csv(index=False))
    picture.parent.mkdir(exist_ok=True)
    figure = figures.learning_rates(with_learning_rate(records))
    where = f"{settings_in_words(records['parameters'].iloc[0])}, {seeds_in_words(records)}"
    write_pictures([say_where(figure, where)], [picture], scale=2)


def _is_part(folder: Path) -> bool:
    """Tell whether a finished run is a part; refuses one that is not as it was left, and leaves out what is no run."""
    identity = identity_of(folder)
    if identity is None or not is_part(identity):
        return False
    refuse_unfinished(folder)
    return True


def _of_notebook(folder: Path, run: Path, record: Record) -> Path:
    """Return where a trial of a notebook's run is published: with the notebook that made it."""
    below = folder.relative_to(run) if record.notebook == run.parent.name else Path(folder.name)
    return reference_folder() / record.notebook / below


def _with_models(records: Mapping[Path, Record], targets: Mapping[Path, Path], weights: Sequence[str]) -> set[Path]:
    """Return the trials whose models are published: those that are named, and those that are already."""
    arms = {record.arm for record in records.values()}
    for arm in weights:
        if arm not in arms:
            raise ValueError(f"{arm} is none of the arms of this run, which are {', '.join(sorted(arms))}.")
    named = {
        min((folder for folder, record in records.items() if record.arm == arm), key=lambda one: records[one].seed)
        for arm in weights
    }
    for folder in named:
        if not (folder / SAVED_MODEL).is_dir():
            raise ValueError(f"{folder} holds no trained model: give the folder of the run that trained it.")
    named |= {
        folder
        for folder, target in targets.items()
        if (target / SAVED_MODEL).is_dir() and (folder / SAVED_MODEL).is_dir()
    }
    replaced = {targets[folder] / SAVED_MODEL for folder in named}
    others = [path for path in reference_folder().rglob(WEIGHTS) if path.parent not in replaced]
    size = sum(path.stat().st_size for path in others)
    size += sum(published_size(folder / SAVED_MODEL) for folder in named)
    if size > MOST_WEIGHTS:
        raise ValueError(
            f"all published weights together would take {size / 1e6:.0f} MB, but they must be at most "
            f"{MOST_WEIGHTS / 1e6:.0f} MB: name fewer arms, or delete published ones."
        )
    return named


def published_retrofits(parent: str = BASELINE) -> list[Path]:
    """Return the folders of the published retrofits of a parent; none where there are none.

    Parameters
    ----------
    parent
        What its name begins with.
    """
    files = (reference_folder() / RETROFITS_FOLDER).glob(f"{parent}*/{RESULT_FILE}")
    return [file.parent for file in sorted(files)]


def draw_reference() -> None:
    """Draw what README and RESULTS show as pictures, where it is published: the leading arms, and claims."""
    board = read_board([reference_folder() / SWEEPS_FOLDER / LEADING_SWEEP])
    if board.budgets:
        write_pictures([board.budgets[0].draw()], [reference_folder() / PICTURE], scale=2)
        compared = comparisons_table(find_claims(published_trials(), published_evidence()))
        write_pictures([figures.claims(compared)], [reference_folder() / CLAIMS_PICTURE], scale=2)


def published_trials() -> pd.DataFrame:
    """Read the records that claims are judged by: of published sweeps, and of what notebooks trained on text alone.

    Models that were taught facts are not among them, nor those of sweeps that tell no methods apart.
    """
    published = sorted((reference_folder() / SWEEPS_FOLDER).glob("*"))
    sweeps = [path for path in published if path.name not in TELL_NO_METHODS]
    folders = [*sweeps, reference_folder() / "05_reversal_curse" / REVERSAL_FOLDERS[False]]
    return pd.concat([load_records(folder) for folder in folders], ignore_index=True)


def published_evidence() -> dict[str, pd.DataFrame]:
    """Read the published tables that `newllm.analysis.claims.judge_claims` judges by, as far as they are there."""
    paths = {name: reference_folder() / f"{path}.csv" for name, path in EVIDENCE.items()}
    return {name: pd.read_csv(path) for name, path in paths.items() if path.is_file()}


def published_table(name: str) -> pd.DataFrame:
    """Read a table of the reference results.

    Parameters
    ----------
    name
        Its path below the reference folder, without ``.csv``; its first part is the notebook.

    Raises
    ------
    UnpublishedError
        Where it is not there.
    """
    path = reference_folder() / f"{name}.csv"
    if not path.is_file():
        raise UnpublishedError(f"not published yet: `newllm run {name.partition('/')[0]}`")
    return pd.read_csv(path)


def published_sweep(name: str) -> pd.DataFrame:
    """Read the records of a published sweep, one row a trial.

    Raises
    ------
    UnpublishedError
        Where there are none.
    """
    records = load_records(reference_folder() / SWEEPS_FOLDER / name)
    if records.empty:
        raise UnpublishedError(f"not published yet: `newllm sweep {name}`")
    return records
