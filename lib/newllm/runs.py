"""Run folders and result records: what a run leaves on disk, and how it is found again.

A notebook's run is one folder, named after the parameters that decide its result. Its parts (one arm with one seed) are
folders inside. ``run.json`` says what is being run and whether it is finished; ``record.json`` holds a result. Both are
replaced in one step, so a killed run leaves either the old file or the new one, and is taken up where it stopped.
"""

import json
import logging
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas
import plotly.io
from plotly import graph_objects
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

from newllm.config import RunParameters
from newllm.files import to_json, write_atomically
from newllm.folders import outputs_folder
from newllm.pictures import write_pictures_where_possible
from newllm.provenance import Provenance

logger = logging.getLogger(__name__)

STATE_FILE = "run.json"
RECORD_FILE = "record.json"
FIGURES_FOLDER = "figures"
TABLES_FOLDER = "tables"
SWEEPS_FOLDER = "sweeps"
SAVED_MODEL = "model"


class RunError(RuntimeError):
    """A run folder that cannot be used as asked."""


class _Part(BaseModel):
    """A piece of a record: strict about names, and readable from an object with these attributes."""

    model_config = ConfigDict(extra="forbid", frozen=True, from_attributes=True)


class CacheSize(_Part):
    """The bytes one sequence keeps, counted in the tensors of a real cache."""

    tokens: int = Field(gt=0)
    dtype: str
    measured_bytes: int = Field(ge=0)
    formula_bytes: int | None = Field(ge=0, description="None: a model without a formula of ours")
    bytes_per_token: float = Field(ge=0)


class CertificateResult(_Part):
    """The outcome of the causality certificate."""

    passed: bool
    max_change: float = Field(ge=0)

    @field_validator("passed")
    @classmethod
    def _must_have_passed(cls, passed: bool) -> bool:
        if not passed:
            raise ValueError("a result is recorded only with a passed causality certificate")
        return passed


class Continuation(_Part):
    """What a model says after a fixed prompt."""

    prompt: str
    text: str


class Record(_Part):
    """The result of one arm with one seed: everything a table or a reader needs to trust it."""

    notebook: str
    profile: str
    arm: str
    method: str
    size: str
    seed: int
    parameters: dict[str, Any] = Field(description="the notebook's parameters, as `RunParameters.identity` gives them")
    parameter_count: int = Field(gt=0)
    metrics: dict[str, float | None] = Field(
        description="by name: perplexity, bits_per_byte, accuracy, convergence_rate, effective_rank, ..."
    )
    cache: CacheSize
    certificate: CertificateResult
    continuations: tuple[Continuation, ...]
    duration_seconds: float = Field(ge=0)
    provenance: Provenance = Field(default_factory=Provenance.collect)


class Run:
    """A folder that is worked in until it is finished.

    Parameters
    ----------
    folder
        Where the run keeps its files.
    identity
        Plain JSON values that decide the result.

    Raises
    ------
    RunError
        If the folder holds something else than this run.
    """

    def __init__(self, folder: Path, identity: Mapping[str, Any]) -> None:
        self.folder = folder
        self.identity = json.loads(to_json(dict(identity)))
        state = self._state()
        if state is None and folder.is_dir() and any(path.suffix != ".ipynb" for path in folder.iterdir()):
            raise RunError(f"{folder} holds files that are not a run's; choose an empty output_folder.")
        if state is not None and state["identity"] != self.identity:
            before = state["identity"]
            keys = [key for key in {**before, **self.identity} if before.get(key) != self.identity.get(key)]
            raise RunError(
                f"{folder} holds a run with another {' and '.join(keys)}; choose another output_folder or delete it."
            )

    @property
    def is_started(self) -> bool:
        """Whether the run began at some time: if it is not finished, it was interrupted."""
        return self._state() is not None

    @property
    def is_finished(self) -> bool:
        """Whether there is nothing left to do."""
        state = self._state()
        return state is not None and state["finished"]

    def start(self) -> None:
        """Create the folder and say what is run in it; a run that was interrupted keeps its files."""
        self.folder.mkdir(parents=True, exist_ok=True)
        self._write_state(finished=False, seconds=None)

    def finish(self, seconds: float, record: Record | None = None) -> None:
        """Write the result and mark the run as finished.

        Parameters
        ----------
        seconds
            How long the run took.
        record
            The result; None where the results are those of the run's parts.
        """
        if record is not None:
            self.write_json(RECORD_FILE, record)
        self._write_state(finished=True, seconds=seconds)

    def clear(self) -> None:
        """Delete what the run left, except notebooks: papermill may be writing one there."""
        if not self.is_started:
            return
        for path in self.folder.iterdir():
            if path.is_dir():
                shutil.rmtree(path)
            elif path.suffix != ".ipynb":
                path.unlink()

    def part(self, name: str, identity: Mapping[str, Any]) -> "Run":
        """Return the run of one part, in a folder inside this one; its identity includes this run's."""
        return Run(self.folder / name, {**self.identity, **identity})

    def record(self) -> Record:
        """Read the result of a finished run."""
        return read_record(self.folder)

    def write_json(self, name: str, value: Any) -> Path:
        """Write a value as JSON in one step; a number that is not finite becomes null."""
        return self.write_text(name, to_json(value))

    def write_text(self, name: str, text: str) -> Path:
        """Write a text in one step."""
        return write_atomically(self.folder / name, text)

    def save_figure(self, figure: graph_objects.Figure, name: str) -> None:
        """Save a figure among the run's figures, as `save_figure` does."""
        save_figure(figure, self.folder / FIGURES_FOLDER, name)

    def save_table(self, table: pandas.DataFrame, name: str) -> None:
        """Save a table among the run's tables, as ``<name>.csv`` without its index."""
        self.write_text(f"{TABLES_FOLDER}/{name}.csv", table.to_csv(index=False))

    def equal_run(self, outputs: Path) -> Path | None:
        """Return the folder of a finished run of the same folder name and the same identity, if there is one.

        Parameters
        ----------
        outputs
            Folder under which to look.
        """
        for path in sorted(outputs.rglob(f"{self.folder.name}/{STATE_FILE}")):
            state = json.loads(path.read_text(encoding="utf-8"))
            if state["finished"] and state["identity"] == self.identity:
                return path.parent
        return None

    def take_over(self, outputs: Path) -> bool:
        """Copy an equal run that was finished elsewhere, and tell whether there was one.

        A run that was started here is left to go on here.

        Parameters
        ----------
        outputs
            Folder under which to look for it, as `equal_run` does.
        """
        equal = None if self.is_started else self.equal_run(outputs)
        if equal is None:
            return False
        copying = self.folder.with_name(f".{self.folder.name}")
        shutil.rmtree(copying, ignore_errors=True)
        shutil.copytree(equal, copying)
        copying.rename(self.folder)
        logger.info("%s was finished before and is taken over from %s.", self.folder.name, equal.parent)
        return True

    def _state(self) -> dict[str, Any] | None:
        path = self.folder / STATE_FILE
        return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else None

    def _write_state(self, *, finished: bool, seconds: float | None) -> None:
        self.write_json(STATE_FILE, {"finished": finished, "seconds": seconds, "identity": self.identity})


def read_record(folder: Path) -> Record:
    """Read the result that a finished run left in its folder."""
    return Record.model_validate_json((folder / RECORD_FILE).read_bytes())


def open_run(parameters: RunParameters) -> Run:
    """Open the run folder of a notebook and write its parameters there.

    The folder is ``output_folder``, or ``<outputs>/<notebook>/<profile>-<fingerprint>``. With ``rerun`` what an earlier
    run left is deleted first; otherwise it is kept and taken up.
    """
    run = notebook_run(parameters)
    if parameters.rerun:
        run.clear()
    if not run.is_finished:
        run.start()
    run.write_text("parameters.yaml", parameters.to_yaml())
    return run


def notebook_run(parameters: RunParameters) -> Run:
    """Return the run of a notebook with these parameters; nothing is written."""
    named = outputs_folder() / parameters.notebook / f"{parameters.profile}-{parameters.fingerprint()}"
    return Run(parameters.output_folder or named, parameters.identity())


def earlier_seconds(notebook: str, profile: str) -> float | None:
    """Return how long the newest finished run of a notebook in a profile took, or None if there was none."""
    states = sorted(
        (outputs_folder() / notebook).glob(f"{profile}-*/{STATE_FILE}"), key=lambda path: path.stat().st_mtime
    )
    seconds = [json.loads(path.read_text(encoding="utf-8"))["seconds"] for path in states]
    return next((value for value in reversed(seconds) if value is not None), None)


def load_records(folder: Path) -> pandas.DataFrame:
    """Read every result record under a folder.

    Returns
    -------
    pandas.DataFrame
        One row a record, sorted by notebook, profile, arm and seed: what was run, each metric under its name,
        ``kv_bytes_per_token``, ``kv_bytes``, ``kv_formula_bytes``, ``kv_tokens``, ``certificate`` (largest change),
        the provenance, and ``folder``. A record that cannot be read is left out with a warning.
    """
    records, refused = read_records(folder)
    for path, reason in refused.items():
        logger.warning("%s is left out: %s", path, reason)
    return records


def read_records(folder: Path) -> tuple[pandas.DataFrame, dict[Path, str]]:
    """Read every result record under a folder, and say of each file that is none why it is none.

    Returns
    -------
    pandas.DataFrame
        As `load_records` gives it.
    dict
        The reason for each file that cannot be read as a record.
    """
    rows, refused = [], {}
    for path in sorted(folder.rglob(RECORD_FILE)):
        try:
            record = read_record(path.parent)
        except ValidationError as error:
            problem = error.errors()[0]
            where = "".join(f"{part}: " for part in problem["loc"])
            refused[path] = f"not a record of this version: {where}{problem['msg'].removeprefix('Value error, ')}"
        except OSError as error:
            refused[path] = f"it cannot be read: {error.strerror}"
        else:
            rows.append({**_row(record), "folder": path.parent})
    order = ["notebook", "profile", "arm", "seed"]
    frame = pandas.DataFrame(rows).sort_values(order, ignore_index=True) if rows else pandas.DataFrame(columns=order)
    return frame, refused


def parameter_differences(first: Path, second: Path) -> pandas.DataFrame:
    """Compare what two runs were run with.

    Parameters
    ----------
    first, second
        Folders that hold a record, or a run of any kind.

    Returns
    -------
    pandas.DataFrame
        One row for each parameter that differs, and for notebook, commit and versions where they are recorded:
        ``name``, ``first`` and ``second``; None where one of them has nothing of that name.

    Raises
    ------
    RunError
        Where a folder holds neither record nor run.
    """
    ours, theirs = (_ran_with(folder) for folder in (first, second))
    names = [name for name in dict.fromkeys([*ours, *theirs]) if ours.get(name) != theirs.get(name)]
    rows = [(name, ours.get(name), theirs.get(name)) for name in names]
    return pandas.DataFrame(rows, columns=["name", "first", "second"], dtype=object)


def _ran_with(folder: Path) -> dict[str, Any]:
    if (folder / RECORD_FILE).is_file():
        try:
            record = read_record(folder)
        except ValidationError as error:
            raise RunError(f"{folder} holds no record of this version: {error.errors()[0]['msg']}.") from error
        provenance = record.provenance
        versions = {f"{name} (version)": version for name, version in provenance.versions.items()}
        return {"notebook": record.notebook, **record.parameters, "commit": provenance.commit, **versions}
    if (folder / STATE_FILE).is_file():
        identity: dict[str, Any] = json.loads((folder / STATE_FILE).read_text(encoding="utf-8"))["identity"]
        return identity
    raise RunError(f"{folder} holds neither {RECORD_FILE} nor {STATE_FILE}: give the folder of a run or of a record.")


def summarize(records: pandas.DataFrame, by: Sequence[str] = ()) -> pandas.DataFrame:
    """Return the table a run ends with: one row an arm, means over its seeds.

    Parameters
    ----------
    records
        Rows of `load_records`.
    by
        More columns whose values tell rows of one arm apart.

    Returns
    -------
    pandas.DataFrame
        The columns ``by``, model, parameters, KV bytes/token (measured), PPL, +- (standard deviation over the seeds),
        bits/byte, certificate and seeds, in the order of perplexity.
    """
    columns = records.reindex(columns=[*records.columns, *({"perplexity", "bits_per_byte"} - set(records.columns))])
    table = columns.groupby(["notebook", "profile", *by, "arm"], as_index=False, dropna=False).agg(
        **{
            "parameters": ("parameter_count", "first"),
            "KV bytes/token": ("kv_bytes_per_token", "mean"),
            "PPL": ("perplexity", "mean"),
            "±": ("perplexity", "std"),
            "bits/byte": ("bits_per_byte", "mean"),
            "certificate": ("certificate", lambda changes: f"passed ({changes.max():.0e})"),
            "seeds": ("seed", "nunique"),
        }
    )
    return table.rename(columns={"arm": "model"}).sort_values(["notebook", "profile", "PPL"], ignore_index=True)


def save_figure(figure: graph_objects.Figure, folder: Path, name: str) -> None:
    """Save a figure for later: ``<name>.html``, an interactive page, and ``<name>.json``, its data.

    The page works offline: plotly's script lies beside it, once for all figures of a folder.

    Parameters
    ----------
    figure
        What to save.
    folder
        Where to; it is created.
    name
        File name without its ending.
    """
    folder.mkdir(parents=True, exist_ok=True)
    (folder / f"{name}.png").unlink(missing_ok=True)
    # "directory" writes plotly.min.js next to the page and points to it.
    figure.write_html(folder / f"{name}.html", include_plotlyjs="directory")
    write_atomically(folder / f"{name}.json", figure.to_json())


def draw_pictures(folder: Path) -> None:
    """Draw every saved figure under a folder that has no PNG yet, where kaleido and Chrome or Chromium can.

    It is done once for all, at the end of a run: starting the browser takes seconds, a picture next to nothing.
    """
    saved = [path for path in sorted(folder.rglob(f"{FIGURES_FOLDER}/*.json")) if not path.with_suffix(".png").exists()]
    if not saved:
        return
    figures = [plotly.io.from_json(path.read_text(encoding="utf-8")) for path in saved]
    write_pictures_where_possible(figures, [path.with_suffix(".png") for path in saved], scale=2)


def _row(record: Record) -> dict[str, Any]:
    return {
        **record.model_dump(include={"notebook", "profile", "arm", "method", "size", "seed", "parameter_count"}),
        **record.metrics,
        "kv_bytes_per_token": record.cache.bytes_per_token,
        "kv_bytes": record.cache.measured_bytes,
        "kv_formula_bytes": record.cache.formula_bytes,
        "kv_tokens": record.cache.tokens,
        "certificate": record.certificate.max_change,
        "duration_seconds": record.duration_seconds,
        "parameters": record.parameters,
        **record.provenance.model_dump(),
    }
