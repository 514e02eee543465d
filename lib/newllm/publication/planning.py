"""What of a run is published, and where: all is looked through, and refused, before anything is written."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from newllm.experiments.floor import FLOORS_FOLDER, floor_files
from newllm.experiments.scoring import EVALUATION_FILE, HISTORY_FILE
from newllm.files import FINISHED_FILE, SAVED_MODEL, leads_inside
from newllm.models.registry import BASELINE
from newllm.publication.memory_page import Passage, missing_passage
from newllm.publication.published import TELL_NO_METHODS
from newllm.retrofit.report import LOSSES_FILE, REPORT_FILE, RESULT_FILE
from newllm.retrofit.running import RETROFITS_FOLDER
from newllm.runs.contents import identity_of, is_hidden
from newllm.runs.folder import SWEEPS_FOLDER, TABLES_FOLDER, Run, finished_runs
from newllm.runs.parts import is_part
from newllm.runs.pictures import FIGURES_FOLDER
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
from newllm.runs.sealed_record import read_sealed_record

KEPT_FILES = (RECORD_FILE, EVALUATION_FILE, HISTORY_FILE)
KEPT_FOLDERS = {TABLES_FOLDER: "*.csv", FIGURES_FOLDER: "*.png"}


@dataclass(frozen=True)
class Plan:
    """What is written to publish a run.

    Attributes
    ----------
    publications
        Trials, parts and retrofits.
    copies
        Other files, each by its place among the reference results.
    passages
        What the page "What does it remember?" of a folder has yet to be given; None where it has its passage.
    sweep
        The published sweep that the run is of; None where it is of none.
    """

    publications: Sequence[Publication]
    copies: Mapping[Path, Path]
    passages: Mapping[Path, Passage | None]
    sweep: Path | None


def plan_run(run: Path, reference: Path, weights: Sequence[str] = ()) -> Plan:
    """Look through a finished run that shall be published; nothing is written.

    Parameters
    ----------
    run
        As for `newllm.publication.reference.publish`.
    reference
        Folder of the reference results.
    weights
        Arms whose models are published.

    Raises
    ------
    ValueError
        As `newllm.publication.reference.publish`.
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
    sweep = reference / SWEEPS_FOLDER / run.name if run.parent.name == SWEEPS_FOLDER else None
    home = sweep or reference / run.parent.name
    known = finished_runs(reference)
    targets = {
        # What is published already stays where it is, whichever run asked for it.
        folder: known.get(Run(folder, record.parameters).key)
        or (_of_notebook(folder, run, record, reference) if sweep is None else sweep / folder.relative_to(run))
        for folder, record in records.items()
    }
    with_model = _with_models(records, targets, weights, reference)
    # What is published with its weights, which are not here, stays as it is.
    stays = {folder for folder, target in targets.items() if (target / SAVED_MODEL).is_dir()} - with_model
    new = {folder: target for folder, target in targets.items() if folder not in stays}
    publications = [
        *(plan_publication(folder, new[folder], KEPT_FILES, with_model=folder in with_model) for folder in new),
        *(plan_publication(folder, home / folder.relative_to(run), tables_in(folder)) for folder in parts),
        *(
            plan_publication(
                folder, reference / RETROFITS_FOLDER / folder.name, (RESULT_FILE, REPORT_FILE, LOSSES_FILE)
            )
            for folder in retrofits
        ),
    ]
    copies = _floors(records, new, sweep) | {home / kept: run / kept for kept in _tables_and_pictures(run)}
    shows_memory = sweep is not None and sweep.name not in TELL_NO_METHODS
    return Plan(publications, copies, _passages(records, new) if shows_memory else {}, sweep)


def _floors(records: Mapping[Path, Record], targets: Mapping[Path, Path], sweep: Path | None) -> dict[Path, Path]:
    """Return the counts of the data of trials by their place, where none stand yet; those of a sweep stand with it."""
    found = {}
    for folder, target in targets.items():
        parameters = records[folder].parameters
        for floor in [] if floor_files(target, parameters) else floor_files(folder, parameters):
            found[(sweep or target.parent) / FLOORS_FOLDER / floor.name] = floor
    return found


def _passages(records: Mapping[Path, Record], targets: Mapping[Path, Path]) -> dict[Path, Passage | None]:
    """Return for each folder of a published baseline the passage that its page has yet to be given."""
    found: dict[Path, Passage | None] = {}
    for folder, target in targets.items():
        if records[folder].arm == BASELINE and target.parent not in found:
            found[target.parent] = missing_passage(target.parent, records[folder])
    return found


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


def _is_part(folder: Path) -> bool:
    """Tell whether a finished run is a part; refuses one that is not as it was left, and leaves out what is no run."""
    identity = identity_of(folder)
    if identity is None or not is_part(identity):
        return False
    refuse_unfinished(folder)
    return True


def _of_notebook(folder: Path, run: Path, record: Record, reference: Path) -> Path:
    """Return where a trial of a notebook's run is published: with the notebook that made it."""
    below = folder.relative_to(run) if record.notebook == run.parent.name else Path(folder.name)
    return reference / record.notebook / below


def _with_models(
    records: Mapping[Path, Record], targets: Mapping[Path, Path], weights: Sequence[str], reference: Path
) -> set[Path]:
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
    others = [path for path in reference.rglob(WEIGHTS) if path.parent not in replaced]
    size = sum(path.stat().st_size for path in others)
    size += sum(published_size(folder / SAVED_MODEL) for folder in named)
    if size > MOST_WEIGHTS:
        raise ValueError(
            f"all published weights together would take {size / 1e6:.0f} MB, but they must be at most "
            f"{MOST_WEIGHTS / 1e6:.0f} MB: name fewer arms, or delete published ones."
        )
    return named
