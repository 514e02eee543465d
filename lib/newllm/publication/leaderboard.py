"""The leaderboard: every record there is, each trial counted once, and compared where budgets are equal.

A budget is what :data:`newllm.config.groups.BUDGET` names. Rows of one budget stand in one table; whatever belongs to
another budget, or to none, is set apart with the reason, never left out.
"""

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pandas as pd

from newllm.analysis.summary import summarize_arms
from newllm.config.errors import ParameterError, nearest
from newllm.config.groups import BUDGET, DataParameters, EvaluationParameters, ExperimentParameters, LeaderboardFilters
from newllm.config.notebooks import NOTEBOOKS
from newllm.experiments.arms import Arm, ArmError
from newllm.experiments.scoring import PRETRAINED
from newllm.figures.pareto import alike, on_front
from newllm.files import outputs_folder, reference_folder
from newllm.models.registry import BASELINE
from newllm.runs.records_table import read_records

MEASURED = ("perplexity", "bits_per_byte")


DIFFERENCE = ("difference", "difference_low", "difference_high")


SPEED = "decoded_tokens_per_second"


SET_APART = ["file", "arm", "seed", "reason"]


# Where and with what else a trial was run; they decide nothing.
SURROUNDINGS = {"profile", "device", "arms", "seeds", "pretrained", "data", *EvaluationParameters.model_fields}


@dataclass(frozen=True)
class Budget:
    """Results that can be compared.

    Attributes
    ----------
    name
        Eight digits that differ where the settings differ.
    settings
        The values of :data:`newllm.config.groups.BUDGET`.
    records
        One row a trial, as :func:`newllm.runs.records_table.load_records` gives it, with ``row`` (the row of the
        summary that it belongs to) and ``places`` (every folder in which the same trial was found; the newest record
        counts).
    summary
        One row an arm: the columns of :func:`newllm.analysis.summary.summarize_arms` with ``method``, ``size``,
        ``kv_tokens`` (of ``kv_bytes``), ``decoded_tokens_per_second`` (median; NaN where it was not measured),
        ``certificate`` (largest change), ``trained_otherwise`` (on one run-on stream, with a learning rate of its own
        and on a trained embedding: a larger budget) and ``on_front`` (nothing that was trained like the others is
        better both in bits per byte and in bytes per token). The best bits per byte stand first.
    """

    name: str
    settings: dict[str, Any]
    records: pd.DataFrame
    summary: pd.DataFrame

    @property
    def title(self) -> str:
        """The settings as a reader says them."""
        said = self.settings
        return (
            f"{said['size']}, {said['samples']:,} windows of {said['seq_length']} tokens of {said['source']}, "
            f"{said['epochs']} epoch{'s' if said['epochs'] != 1 else ''}"
        )

    def differences(self, other: "Budget") -> str:
        """Say in what this budget differs from another one."""
        keys = [key for key in BUDGET if self.settings[key] != other.settings[key]]
        if "data" in keys and set(keys) & set(DataParameters.model_fields):
            keys.remove("data")  # the windows' fingerprint follows from those
        said = [f"{key} {self.settings[key]} instead of {other.settings[key]}" for key in keys if key != "data"]
        return "; ".join([*said, *(["other windows, such as with facts among them"] if "data" in keys else [])])


@dataclass(frozen=True)
class Board:
    """All results.

    Attributes
    ----------
    budgets
        The one to show first, then the others, the fullest first.
    set_apart
        Record files that belong to no budget: ``file``, ``arm`` and ``seed`` where they can be read, ``reason``.
    """

    budgets: tuple[Budget, ...]
    set_apart: pd.DataFrame

    def filtered(self, filters: LeaderboardFilters) -> "Board":
        """Return the rows that pass the filters, with the budget that they name first.

        Raises
        ------
        ParameterError
            Where a filter names a size, a model or a budget that no record has, or nothing passes.
        """
        summaries = [budget.summary for budget in self.budgets]
        known = {
            "sizes": _values(summaries, "size"),
            "methods": _values(summaries, "method"),
            "budget": [budget.name for budget in self.budgets],
        }
        wanted = {"sizes": filters.sizes, "methods": filters.methods, "budget": filters.budget and (filters.budget,)}
        for name, values in wanted.items():
            for value in values or ():
                if value not in known[name]:
                    raise ParameterError(f"{name} is {value!r}, which no record has{nearest(value, known[name])}")
        budgets = [kept for budget in self.budgets if (kept := _filter_rows(budget, filters)) is not None]
        if not budgets:
            raise ParameterError("no row passes the filters: ask for fewer seeds, or more sizes and methods.")
        budgets.sort(key=lambda budget: budget.name != filters.budget)
        return replace(self, budgets=tuple(budgets))


def default_folders() -> list[Path]:
    """Return where results are: the outputs, and the committed ones where those lie elsewhere."""
    outputs, reference = outputs_folder(), reference_folder()
    return [outputs] if reference.is_relative_to(outputs) else [outputs, reference]


def read_board(folders: Iterable[Path]) -> Board:
    """Read every record under some folders.

    Parameters
    ----------
    folders
        Where to look.
    """
    frames: list[pd.DataFrame] = []
    apart: list[dict[str, Any]] = []
    for folder in folders:
        found, refused = read_records(folder)
        frames += [] if found.empty else [found]
        apart += [_refused(path, reason) for path, reason in refused.items()]
    records = pd.concat(frames, ignore_index=True) if frames else pd.DataFrame()
    if not records.empty:
        reasons = [_incomparable(record) for _, record in records.iterrows()]
        apart += [
            {"file": row["folder"] / "record.json", "arm": row["arm"], "seed": row["seed"], "reason": reason}
            for (_, row), reason in zip(records.iterrows(), reasons, strict=True)
            if reason is not None
        ]
        records = records[[reason is None for reason in reasons]].reset_index(drop=True)
    budgets = _budgets(records) if not records.empty else []
    return Board(tuple(budgets), pd.DataFrame(apart, columns=SET_APART, dtype=object))


def summarize_budget(records: pd.DataFrame) -> pd.DataFrame:
    """Summarise the records of one budget as :class:`Budget` describes it.

    Parameters
    ----------
    records
        One row a trial, with ``row``: what its trials of other seeds are called, too.
    """
    named = records.assign(arm=records["row"])
    baseline = BASELINE if BASELINE in set(named["arm"]) else None
    summary = summarize_arms(named, baseline)
    # Without a baseline, or without another arm, there is nothing to take a difference of.
    summary = summary.reindex(columns=list(dict.fromkeys([*summary, *DIFFERENCE])))
    if SPEED not in named:
        named[SPEED] = float("nan")
    more = named.groupby("arm").agg(
        {"method": "first", "size": "first", "kv_tokens": "first", SPEED: "median", "certificate": "max"}
    )
    summary = summary.join(more, on="arm").sort_values("bits_per_byte", ignore_index=True)
    return with_front(summary.assign(trained_otherwise=[_reads_stream(method) for method in summary["method"]]))


def with_front(summary: pd.DataFrame) -> pd.DataFrame:
    """Add the column ``on_front`` for these rows."""
    front = on_front(summary["kv_bytes_per_token"], summary["bits_per_byte"], alike(summary))
    return summary.assign(on_front=front)


def _reads_stream(method: str) -> bool:
    try:
        return Arm.parse(method).reads_stream
    except ArmError:  # a model that is no longer there
        return False


def _values(frames: Sequence[pd.DataFrame], column: str) -> list[str]:
    return sorted({str(value) for frame in frames for value in frame[column]})


def _filter_rows(budget: Budget, filters: LeaderboardFilters) -> Budget | None:
    summary = budget.summary
    kept = summary["seeds"] >= filters.min_seeds
    for column, values in (("size", filters.sizes), ("method", filters.methods)):
        if values is not None:
            kept &= summary[column].isin(values)
    if not kept.any():
        return None
    rows = with_front(summary[kept].reset_index(drop=True))
    return replace(budget, summary=rows, records=budget.records[budget.records["row"].isin(rows["arm"])])


def _refused(path: Path, reason: str) -> dict[str, Any]:
    """Describe a file that is no record, with the arm and the seed that it names, if it does."""
    try:
        stored = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        stored = None
    named = stored if isinstance(stored, Mapping) else {}
    arm, seed = (named.get(key) if isinstance(named.get(key), str | int) else None for key in ("arm", "seed"))
    return {"file": path, "arm": arm, "seed": seed, "reason": reason}


def _incomparable(record: pd.Series) -> str | None:
    """Say why a record has no budget; None where it has one."""
    if record["arm"] == PRETRAINED:
        return "trained elsewhere, on other text and for longer"
    missing = [key for key in BUDGET if key not in record["parameters"] and key not in OPTIONAL]
    if missing:
        return f"its parameters do not say {', '.join(missing)}"
    unmeasured = [name for name in MEASURED if pd.isna(record.get(name))]
    if unmeasured:
        return f"it holds no finite {' and '.join(unmeasured)}"
    return None


# None where a source has no files; unknown where a record is older than the fingerprint of its windows.
OPTIONAL = {"text_files", "data"}


def _budgets(records: pd.DataFrame) -> list[Budget]:
    """Group records, each trial counted once; the budget with the most arms first."""
    settings = _with_fingerprints(records["notebook"], [_settings(given) for given in records["parameters"]])
    records = records.assign(
        settings=pd.Series(settings, dtype=object),
        budget=[_digest(given) for given in settings],
        deciding=pd.Series([_deciding(record) for _, record in records.iterrows()], dtype=object),
    )
    budgets = []
    for name, group in records.groupby("budget"):
        named = group.assign(row=_rows(group)).drop(columns=["settings", "budget", "deciding"])
        trial = ["row", "seed"]
        newest_first = named.sort_values("finished_at", ascending=False, kind="stable")
        places = newest_first.groupby(trial)["folder"].agg(tuple).rename("places")
        kept = newest_first.drop_duplicates(trial).join(places, on=trial).sort_values(trial, ignore_index=True)
        budgets.append(Budget(str(name), group["settings"].iloc[0], kept, summarize_budget(kept)))
    return sorted(budgets, key=lambda budget: (-len(budget.summary), -len(budget.records), budget.name))


def _settings(parameters: Mapping[str, Any]) -> dict[str, Any]:
    return {key: parameters.get(key) for key in BUDGET}


def _digest(value: Any) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()[:8]


def _with_fingerprints(notebooks: Iterable[str], settings: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Fill in the windows' fingerprint where a record is older than it.

    It follows from the other settings, but for the notebooks that put facts among the windows: those never lacked it.
    """
    known: dict[str, str] = {}
    for notebook, given in zip(notebooks, settings, strict=True):
        adds_facts = notebook in NOTEBOOKS and "facts_file" in NOTEBOOKS[notebook].model_fields
        if given["data"] is not None and not adds_facts:
            known[_digest({**given, "data": None})] = given["data"]
    return [given if given["data"] is not None else {**given, "data": known.get(_digest(given))} for given in settings]


def _deciding(record: pd.Series) -> dict[str, Any]:
    """Return the parameters beside the budget that decide the result of this arm."""
    try:
        arm = Arm.parse(record["arm"])
    except ArmError:  # an arm of a model that is no longer there
        reaching = set(record["parameters"])
    else:
        reaching = ExperimentParameters.reaching(trains_projection=arm.trains_projection, reads_stream=arm.reads_stream)
    names = reaching - SURROUNDINGS - set(BUDGET)
    return {name: value for name, value in record["parameters"].items() if name in names}


def _rows(records: pd.DataFrame) -> list[str]:
    """Name the row of each record: its arm, and what tells it from other trials of the same arm and budget."""
    names = pd.Series(index=records.index, dtype=object)
    for arm, group in records.groupby("arm"):
        # What one of them does not know of was not a parameter yet.
        shared = set.intersection(*(set(deciding) for deciding in group["deciding"]))
        varying = [key for key in sorted(shared) if len({_digest(row[key]) for row in group["deciding"]}) > 1]
        settings = group["deciding"].map(lambda row, keys=varying: ", ".join(f"{key} {row[key]}" for key in keys))
        usual = settings.value_counts().index[0]
        names[group.index] = [arm if setting == usual else f"{arm} ({setting})" for setting in settings]
    return list(names)
