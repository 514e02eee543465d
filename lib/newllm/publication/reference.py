"""The reference results: records, tables and pictures of finished runs, small enough to be committed."""

import shutil
from pathlib import Path

import pandas as pd

from newllm import figures
from newllm.experiments.floor import FLOORS_FOLDER, floor_files
from newllm.experiments.scoring import EVALUATION_FILE, HISTORY_FILE
from newllm.files import reference_folder, write_atomically
from newllm.models.registry import BASELINE
from newllm.publication.leaderboard import read_board
from newllm.publication.memory_page import PAGE_FILE, render, write_passage
from newllm.retrofit.report import LOSSES_FILE, REPORT_FILE, RESULT_FILE
from newllm.retrofit.running import RETROFITS_FOLDER
from newllm.runs.folder import SWEEPS_FOLDER, TABLES_FOLDER
from newllm.runs.pictures import FIGURES_FOLDER, write_pictures
from newllm.runs.publishing import publish_run
from newllm.runs.record import RECORD_FILE, read_record
from newllm.runs.records_table import load_records

KEPT_FILES = (RECORD_FILE, EVALUATION_FILE, HISTORY_FILE)
KEPT_FOLDERS = {TABLES_FOLDER: "*.csv", FIGURES_FOLDER: "*.png"}
PICTURE = "quality_against_bytes.png"
LEADING_SWEEP = "sotu"

# Tables that claims are judged by, below the reference folder.
EVIDENCE = {
    "oacd": "01_projection_training/tables/oacd",
    "leak": "03_causal_masks/tables/leak",
    "reversal": "05_reversal_curse/tables/reversal",
    "collection": "09_cascade/tables/collection_speed",
}


class UnpublishedError(FileNotFoundError):
    """Results that are not among the published ones; the message names the command that makes them."""


def publish(run: Path) -> None:
    """Take the results of a run among the reference results, and renew README's picture.

    Each record goes to the folder of the notebook that made it, the floor of its data beside it; tables and drawn
    figures to that of this run's notebook. A sweep has a folder of its own: the same arm and seed may be in it with
    other parameters. Weights and checkpoints stay behind. Where the baseline is among the records, the page "What does
    it remember?" is written beside them.

    Parameters
    ----------
    run
        Folder of a finished run of a notebook, of a sweep, or of a retrofit.

    Raises
    ------
    ValueError
        Where the folder holds no record.
    RuntimeError
        Where kaleido finds no Chrome or Chromium to draw the picture.
    """
    if (run / RESULT_FILE).is_file():
        publish_run(run, reference_folder() / RETROFITS_FOLDER / run.name, (RESULT_FILE, REPORT_FILE, LOSSES_FILE))
        return
    records = sorted(run.rglob(RECORD_FILE))
    if not records:
        raise ValueError(f"{run} holds no record: give the folder of a finished run.")
    is_sweep = run.parent.name == SWEEPS_FOLDER
    home = reference_folder() / run.parent.name / (run.name if is_sweep else "")
    pages: set[Path] = set()
    for record in records:
        by_notebook = reference_folder() / read_record(record.parent).notebook / record.parent.name
        target = home / record.parent.relative_to(run) if is_sweep else by_notebook
        publish_run(record.parent, target, KEPT_FILES)
        published = read_record(target)
        for floor in floor_files(record.parent, published.parameters["data"]):
            beside = (home if is_sweep else target.parent) / FLOORS_FOLDER / floor.name
            beside.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(floor, beside)
        if published.arm == BASELINE:
            write_passage(target.parent, published)
            pages.add(target.parent)
    for place in pages:
        write_atomically(place / PAGE_FILE, render(place))
    for folder, pattern in KEPT_FOLDERS.items():
        for path in sorted((run / folder).glob(pattern)):
            target = home / folder
            target.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(path, target / path.name)
    draw_reference()


def published_retrofits() -> list[Path]:
    """Return the folders of the published retrofits.

    Raises
    ------
    UnpublishedError
        Where there are none.
    """
    files = sorted((reference_folder() / RETROFITS_FOLDER).glob(f"*/{RESULT_FILE}"))
    if not files:
        raise UnpublishedError("not published yet: `newllm retrofit`")
    return [file.parent for file in files]


def draw_reference() -> None:
    """Draw the picture of the arms that README leads with, where they are published."""
    board = read_board([reference_folder() / SWEEPS_FOLDER / LEADING_SWEEP])
    if board.budgets:
        figure = figures.quality_against_bytes(board.budgets[0].summary)
        write_pictures([figure], [reference_folder() / PICTURE], scale=2)


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
        raise UnpublishedError(f"not published yet: `newllm run {name.partition('/')[0]} --profile cpu`")
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
