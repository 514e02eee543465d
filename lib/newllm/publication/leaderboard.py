"""The leaderboard: every record there is, each trial counted once, and compared where budgets are equal.

A budget is what `newllm.config.groups.BUDGET` names. Rows of one budget stand in one table; whatever belongs to
another budget, or to none, is set apart with the reason, never left out.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pandas as pd
import plotly.graph_objects as go
from pydantic import ValidationError

from newllm.analysis.differences import DIFFERENCE_COLUMNS
from newllm.analysis.encodings import encoding_of
from newllm.analysis.rows import name_rows
from newllm.analysis.summary import baseline_among, summarize_arms
from newllm.analysis.trained_alike import trials_once
from newllm.analysis.wording import rates_text
from newllm.config.errors import ParameterError, first_problem, nearest
from newllm.config.experiment import ExperimentParameters
from newllm.config.groups import BUDGET, DataParameters, LeaderboardFilters
from newllm.experiments.arms import Arm
from newllm.experiments.scoring import is_loaded, is_pretrained
from newllm.figures.pareto import Canvas, may_lead, on_front
from newllm.figures.quality import quality_against_bytes
from newllm.figures.style import say_where
from newllm.files import DamagedFileError, digest_of_json, outputs_folder, read_plain_json, reference_folder
from newllm.runs.record import RECORD_FILE
from newllm.runs.records_table import read_records
from newllm.wording import count

MEASURED = ("perplexity", "bits_per_byte")
# Of the name of a budget.
NAME_DIGITS = 8
SPEED = "decoded_tokens_per_second"
SET_APART = ["file", "arm", "seed", "reason"]


@dataclass(frozen=True)
class Budget:
    """Results that can be compared.

    Attributes
    ----------
    name
        Eight digits that differ where the settings differ.
    settings
        The values of `newllm.config.groups.BUDGET`.
    records
        One row a trial, as `newllm.runs.records_table.load_records` gives it, with ``row`` (the row of the
        summary that it belongs to) and ``places`` (every folder in which the same trial was found; the newest record
        counts).
    summary
        One row an arm: the columns of `newllm.analysis.summary.summarize_arms` with ``method``, ``size``,
        ``kv_tokens`` (of ``kv_bytes``), ``encoding`` (of positions, in words), ``decoded_tokens_per_second`` (median;
        NaN where it was not measured), ``certificate`` (largest change), ``trained_otherwise`` (after a
        model that lends its embedding, some on one continuous stream with a learning rate of its own: a larger budget)
        and ``on_front`` (as `newllm.figures.pareto.may_lead` says it may, and nothing that may is better both in bits
        per byte and in bytes per token). The best bits per byte stand first, and what was trained otherwise below.
    floor
        The rows of n-grams that `newllm.analysis.summary.summarize_arms` gives, where they were counted.
    """

    name: str
    settings: dict[str, Any]
    records: pd.DataFrame
    summary: pd.DataFrame
    floor: pd.DataFrame

    @property
    def title(self) -> str:
        """The settings as a reader says them."""
        return settings_in_words(self.settings)

    def draw(self) -> go.Figure:
        """Draw quality against memory as a picture that stands alone, with the floor and what it was measured with."""
        where = f"{self.title}, learning rates {rates_text(self.settings)}; {seeds_in_words(self.records)}"
        return say_where(quality_against_bytes(self.summary, Canvas(), self.floor), where)

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

    def differences(self) -> list[str]:
        """Say in what each budget differs from the first, and from an earlier one that differs from it in the same."""
        said = [budget.differences(self.budgets[0]) for budget in self.budgets]
        earlier = [said.index(words) for words in said]
        return [
            words
            if place == first
            else f"{words}; beside {self.budgets[first].name}: {self.budgets[place].differences(self.budgets[first])}"
            for place, (words, first) in enumerate(zip(said, earlier, strict=True))
        ]

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


def settings_in_words(settings: Mapping[str, Any]) -> str:
    """Say on what models of which size were trained.

    Parameters
    ----------
    settings
        Of `newllm.config.groups.BUDGET`, or the parameters of a record.
    """
    samples = settings["samples"] if settings["samples"] == "all" else f"{settings['samples']:,}"
    return (
        f"{settings['size']}, {samples} windows of {settings['seq_length']} tokens of {settings['source']}, "
        f"{count(settings['epochs'], 'epoch')}"
    )


def seeds_in_words(records: pd.DataFrame) -> str:
    """Say how many seeds arms have: "2 to 3 seeds".

    Parameters
    ----------
    records
        One row a trial: columns arm and seed.
    """
    seeds = records.groupby("arm")["seed"].nunique()
    fewest = f"{seeds.min()} to " if seeds.min() < seeds.max() else ""
    return f"{fewest}{count(seeds.max(), 'seed')}"


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
    trained: dict[Any, dict[str, Any]] = {}
    for index, row in records.iterrows():
        try:
            trained[index] = _as_trained(row)
        except ValueError as error:
            apart.append(
                {"file": row["folder"] / RECORD_FILE, "arm": row["arm"], "seed": row["seed"], "reason": str(error)}
            )
    if trained:
        records = records.loc[list(trained)].assign(**pd.DataFrame(trained).T).reset_index(drop=True)
    budgets = _budgets(records) if trained else []
    return Board(tuple(budgets), pd.DataFrame(apart, columns=SET_APART, dtype=object))


def summarize_budget(records: pd.DataFrame) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Summarise the records of one budget as `Budget` describes it: its arms, and the floor.

    Parameters
    ----------
    records
        One row a trial, with ``row``: what its trials of other seeds are called, too.
    """
    encodings = [encoding_of(Arm.parse(arm)) for arm in records["arm"]]
    named = records.assign(arm=records["row"], encoding=encodings)
    baseline = baseline_among(named)
    rows = summarize_arms(named, baseline)
    # Without a baseline there is nothing to take a difference of.
    rows = rows.reindex(columns=list(dict.fromkeys([*rows, *DIFFERENCE_COLUMNS])))
    rows["verdict"] = rows["verdict"].fillna("")
    is_arm = rows["arm"].isin(named["arm"])
    # Whole numbers, which the floor, that has no seeds, made fractions of.
    summary, floor = rows[is_arm].astype({"seeds": int}), rows[~is_arm].reset_index(drop=True)
    if SPEED not in named:
        named[SPEED] = float("nan")
    more = named.groupby("arm").agg(
        dict.fromkeys(("method", "size", "kv_tokens", "encoding"), "first") | {SPEED: "median", "certificate": "max"}
    )
    # An n-gram model brings a method of its own into the rows.
    summary = (
        summary.drop(columns="method", errors="ignore")
        .join(more, on="arm")
        .sort_values(["equal_budget", "bits_per_byte"], ascending=[False, True], ignore_index=True)
    )
    return with_front(summary), floor


def with_front(summary: pd.DataFrame) -> pd.DataFrame:
    """Add the column ``on_front`` for these rows."""
    front = on_front(summary["kv_bytes_per_token"], summary["bits_per_byte"], may_lead(summary))
    return summary.assign(on_front=front)


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
        stored = read_plain_json(path)
    except (OSError, DamagedFileError):
        stored = None
    named = stored if isinstance(stored, Mapping) else {}
    arm, seed = (named.get(key) if isinstance(named.get(key), str | int) else None for key in ("arm", "seed"))
    return {"file": path, "arm": arm, "seed": seed, "reason": reason}


def _parameters(record: pd.Series) -> ExperimentParameters:
    """Read the parameters of a record as this version would run them.

    Raises
    ------
    ValueError
        In words that say why the record has no budget.
    """
    unmeasured = [name for name in MEASURED if not math.isfinite(record.get(name) or math.nan)]
    if unmeasured:
        raise ValueError(f"it holds no finite {' and '.join(unmeasured)}")
    given = record["parameters"]
    missing = [key for key in BUDGET if key not in given]
    if missing:
        raise ValueError(f"its parameters do not say {', '.join(missing)}")
    if not isinstance(given["data"], str):
        raise ValueError("its parameters do not say by a fingerprint which windows it was scored on")
    try:
        return ExperimentParameters.model_validate({key: value for key, value in given.items() if key != "data"})
    except ValidationError as error:
        raise ValueError(f"its parameters are none of this version: {first_problem(error)}") from error


def _as_trained(record: pd.Series) -> dict[str, Any]:
    """Name what was trained: arm and method; settings that say what is so anyway make no other arm.

    Raises
    ------
    ValueError
        In words that say why the record has no budget.
    """
    if is_pretrained(record["arm"]):
        raise ValueError("trained elsewhere, on other text and for longer")
    if is_loaded(record["arm"]):
        raise ValueError("a trained model that was scored: how it was made is not among the parameters of a trial")
    arm = Arm.parse(record["arm"]).as_trained(_parameters(record))
    return {"arm": arm.name, "method": arm.method}


def _budgets(records: pd.DataFrame) -> list[Budget]:
    """Group records, each trial counted once; the budget with the most arms first."""
    settings = [{key: given[key] for key in BUDGET} for given in records["parameters"]]
    records = records.assign(
        settings=pd.Series(settings, dtype=object), budget=[digest_of_json(given)[:NAME_DIGITS] for given in settings]
    )
    budgets = []
    for name, group in records.groupby("budget"):
        named = group.assign(row=name_rows(group)).drop(columns=["settings", "budget"])
        trial = ["row", "seed"]
        newest_first = named.sort_values("finished_at", ascending=False, kind="stable")
        places = newest_first.groupby(trial)["folder"].agg(tuple).rename("places")
        kept = trials_once(named, by=["row"]).join(places, on=trial).sort_values(trial, ignore_index=True)
        budgets.append(Budget(str(name), group["settings"].iloc[0], kept, *summarize_budget(kept)))
    return sorted(budgets, key=lambda budget: (-len(budget.summary), -len(budget.records), budget.name))
