"""The reference results, written: records, tables and pictures of finished runs, small enough to be committed."""

import logging
from collections.abc import Sequence
from pathlib import Path

import pandas as pd

from newllm import figures
from newllm.analysis.claims import comparisons_table, find_claims
from newllm.analysis.learning_rates import best_learning_rates, with_learning_rate
from newllm.analysis.rows import name_rows
from newllm.analysis.summary import baseline_among, summarize_arms
from newllm.config.errors import ParameterError
from newllm.figures.style import say_where
from newllm.files import copy_atomically, reference_folder, write_atomically
from newllm.publication.leaderboard import read_board, seeds_in_words, settings_in_words
from newllm.publication.memory_page import PAGE_FILE, render, write_passage
from newllm.publication.planning import plan_run
from newllm.publication.published import (
    ADAMW_SWEEP,
    LEADING_SWEEP,
    RATES_SWEEP,
    published_evidence,
    published_trials,
)
from newllm.runs.folder import SWEEPS_FOLDER, TABLES_FOLDER
from newllm.runs.pictures import FIGURES_FOLDER, write_pictures
from newllm.runs.records_table import load_records

logger = logging.getLogger(__name__)

PICTURE, CLAIMS_PICTURE = "quality_against_bytes.png", "claims.png"


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
    plan = plan_run(run, reference_folder(), weights)
    # Nothing is refused from here on.
    for publication in plan.publications:
        publication.write()
    for target, source in plan.copies.items():
        copy_atomically(source, target)
    for place, passage in plan.passages.items():
        if passage is not None:
            write_passage(place, passage)
        write_atomically(place / PAGE_FILE, render(place))
    if plan.sweep is not None:
        _write_results(plan.sweep)
    draw_reference()


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


def draw_reference() -> None:
    """Draw what README and RESULTS show as pictures, where it is published: the leading arms, and claims."""
    board = read_board([reference_folder() / SWEEPS_FOLDER / LEADING_SWEEP])
    if board.budgets:
        write_pictures([board.budgets[0].draw()], [reference_folder() / PICTURE], scale=2)
        compared = comparisons_table(find_claims(published_trials(), published_evidence()))
        write_pictures([figures.claims(compared)], [reference_folder() / CLAIMS_PICTURE], scale=2)
