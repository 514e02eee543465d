"""What published records say of a claim: arms compared in every setting that both were trained in, and one verdict."""

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import pandas as pd

from newllm.analysis.differences import compare_pairs, knows_seeds, losses_by_arm
from newllm.analysis.trained_alike import UNEQUAL, budgets_of, trials_once
from newllm.analysis.trial_files import read_rows
from newllm.analysis.wording import text_in_words
from newllm.config.groups import BUDGET, LEARNING_RATES
from newllm.evaluation.verdicts import BETTER, DEPENDS, EQUIVALENT, FAILS, HOLDS, NO_VERDICT, UNTOLD, VERDICTS
from newllm.experiments.floor import floors_of
from newllm.experiments.scoring import HISTORY_FILE
from newllm.wording import plus_minus

# A recurrence that OACD left below this share of settled contexts is not that method.
CONVERGED = 0.9


@dataclass(frozen=True)
class Compared:
    """Two arms compared in one setting.

    Attributes
    ----------
    arm, base
        Their names; the difference is of the first from the second.
    setting
        The values of `newllm.analysis.trained_alike.UNEQUAL`.
    found
        The columns of `newllm.analysis.differences.compare_pairs`.
    knows_seeds
        Whether its interval says what another seed would find.
    behind
        Of those of both arms that predict worse than counts of the same text: the shortest n-grams that do better.
    """

    arm: str
    base: str
    setting: Mapping[str, Any]
    found: Mapping[str, Any]
    knows_seeds: bool
    behind: Mapping[str, str] = field(default_factory=dict)

    @property
    def words(self) -> str:
        """The difference in words."""
        found = self.found
        said = plus_minus(found, "difference", "{:+.3f}")
        return f"{self.arm} from {self.base} {said} nats ({found['verdict']})"

    @property
    def where(self) -> str:
        """The setting in words."""
        return text_in_words(self.setting)


@dataclass(frozen=True)
class Finding:
    """What was found of one claim.

    Attributes
    ----------
    verdict
        One of `VERDICTS`, with or without words behind it: on what it depends, or within what it holds.
    notes
        Numbers that it rests on beside differences of test losses, in words.
    compared
        The differences that it rests on.
    """

    verdict: str = UNTOLD
    notes: tuple[str, ...] = ()
    compared: tuple[Compared, ...] = ()

    @property
    def surest_first(self) -> list[Compared]:
        """The differences, those that tell nothing of seeds last."""
        return sorted(self.compared, key=lambda one: not one.knows_seeds)

    @property
    def numbers(self) -> str:
        """All numbers in words, differences by their setting, those that tell nothing of seeds last; may be empty."""
        settings: dict[str, list[Compared]] = {}
        for one in self.surest_first:
            settings.setdefault(one.where, []).append(one)
        by_setting = [
            f"{where}: {'; '.join([*(one.words for one in found), *_behind_counts(found)])}"
            for where, found in settings.items()
        ]
        return ". ".join(filter(None, ["; ".join(self.notes), *by_setting]))


def _behind_counts(compared: Sequence[Compared]) -> list[str]:
    """Say of which counts arms are behind: such an arm has not learned what a table of counts knows."""
    arms: dict[str, list[str]] = {}
    for arm, counts in {arm: counts for one in compared for arm, counts in one.behind.items()}.items():
        arms.setdefault(counts, []).append(arm)
    return [f"worse than counts of {counts}: {', '.join(names)}" for counts, names in arms.items()]


@dataclass(frozen=True)
class Evidence:
    """Everything that is published.

    Attributes
    ----------
    records
        Rows of `newllm.runs.records_table.load_records`.
    tables
        Published tables by name, for what no record of an arm holds.
    pairs
        Arms that are compared, each with its base: those of one setting are adjusted together (Holm).
    """

    records: pd.DataFrame
    tables: Mapping[str, pd.DataFrame] = field(default_factory=dict)
    pairs: Sequence[tuple[str, str]] = ()

    @cached_property
    def settings(self) -> list[pd.DataFrame]:
        """The records of each setting, every trial once, each arm at the same rates: those of the most seeds.

        Where others have as many seeds, those with the lowest validation loss are taken.
        """
        if self.records.empty:
            return []
        known = [all(name in given for name in BUDGET) for given in self.records["parameters"]]
        records = trials_once(self.records[known])
        return [self._at_one_rate(group) for _, group in records.groupby(budgets_of(records), sort=True)]

    @staticmethod
    def _at_one_rate(records: pd.DataFrame) -> pd.DataFrame:
        rates = [json.dumps([given.get(name) for name in LEARNING_RATES]) for given in records["parameters"]]
        rated = records.assign(rate=rates)
        chosen = []
        for _, group in rated.groupby("arm", sort=False):
            by_rate = group.groupby("rate").agg(seeds=("seed", "nunique"), loss=("validation_loss", "mean"))
            best = by_rate.sort_values(["seeds", "loss"], ascending=[False, True]).index[0]
            chosen.append(group[group["rate"] == best])
        return pd.concat(chosen, ignore_index=True)

    def compare(self, arm: str, base: str, least: Mapping[str, float] | None = None) -> list[Compared]:
        """Compare two arms in every setting in which both were trained.

        Parameters
        ----------
        arm, base
            Names as records have them; the difference is of the first from the second.
        least
            Numbers of the setting or of records, by name, that both must reach, such as a convergence rate.
        """
        results = []
        for records in self.settings:
            named = records[records["arm"].isin([arm, base])]
            setting = {name: named["parameters"].iloc[0][name] for name in UNEQUAL} if len(named) else {}
            if set(named["arm"]) != {arm, base} or not _reaches(named, setting, least or {}):
                continue
            losses = losses_by_arm(records)
            together = [pair for pair in dict.fromkeys([*self.pairs, (arm, base)]) if set(pair) <= set(losses)]
            found = compare_pairs(losses, together)[together.index((arm, base))]
            if found:
                results.append(Compared(arm, base, setting, found, knows_seeds(losses.values()), _behind(named)))
        return results

    def measures(self, arm: str, measure: str) -> pd.Series:
        """Give a measure of every record of an arm that has it."""
        rows = [records[records["arm"] == arm] for records in self.settings if measure in records]
        return pd.concat([group[measure] for group in rows]).dropna() if rows else pd.Series(dtype=float)

    def measures_by_setting(self, measure: str, arms: Sequence[str]) -> list[tuple[str, list[pd.Series]]]:
        """Give a measure of several arms in every setting in which all of them have it, with the setting in words."""
        found = []
        for records in self.settings:
            known = records[records[measure].notna()] if measure in records else records.iloc[:0]
            values = [known.loc[known["arm"] == arm, measure] for arm in arms]
            if all(map(len, values)):
                found.append((text_in_words(known["parameters"].iloc[0]), values))
        return found

    def passes_to(self, share: float) -> pd.DataFrame:
        """Count the passes of OACD until a share of contexts had settled.

        Parameters
        ----------
        share
            Of all contexts of a block.

        Returns
        -------
        pandas.DataFrame
            One row a block and record: ``arm``, ``seed``, ``passes`` (NaN where the share was never reached), and what
            decides how soon: ``rate``, the learning rate of its training, and ``noise``, the standard deviation added.
        """
        rows = []
        # Of every record: two of one setting may have trained their recurrences in two ways.
        for _, record in self.records.iterrows():
            history = _projection_history(Path(record["folder"]))
            for block in sorted({row["block"] for row in history}):
                reached = [
                    row["iteration"] for row in history if row["block"] == block and row["convergence_rate"] >= share
                ]
                rows.append(
                    {
                        "arm": record["arm"],
                        "seed": record["seed"],
                        "rate": _of_recurrences(record["parameters"], "projection_lr"),
                        "noise": _of_recurrences(record["parameters"], "proj_noise"),
                        "passes": min(reached, default=math.nan),
                    }
                )
        return pd.DataFrame(rows, columns=["arm", "seed", "rate", "noise", "passes"])


def _of_recurrences(parameters: Mapping[str, Any], name: str) -> float:
    """Give a value of projection training: what learns from a stream trains its recurrences by values of its own."""
    return float(parameters.get(f"stream_{name}", parameters[name]))


def _behind(records: pd.DataFrame) -> dict[str, str]:
    """Find the shortest n-grams of the same training windows that predict better than an arm, by arm."""
    scores = [score for floor in floors_of(records) for score in floor.scores]
    found = {}
    for arm, perplexity in records.groupby("arm", sort=False)["perplexity"].mean().items():
        ahead = [score for score in scores if score.perplexity < perplexity]
        if ahead:
            first = min(ahead, key=lambda score: score.order)
            found[str(arm)] = f"{first.order}-grams ({first.perplexity:.1f})"
    return found


def _reaches(records: pd.DataFrame, setting: Mapping[str, Any], least: Mapping[str, float]) -> bool:
    """Tell whether a setting and all records that have a measure reach the numbers that are asked for."""
    for name, number in least.items():
        values = [setting[name]] if name in setting else list(records[name].dropna()) if name in records else []
        if not values or min(values) < number:
            return False
    return True


def _projection_history(folder: Path) -> list[dict[str, Any]]:
    """Read how the recurrences of a trial were trained; nothing of one that left no history."""
    try:
        return read_rows(folder / HISTORY_FILE, "projection")
    except FileNotFoundError:
        return []


def join(verdicts: Sequence[tuple[Compared, bool | None]], *, decides: str = "the setting") -> Finding:
    """Join what each setting says of a claim.

    Parameters
    ----------
    verdicts
        For each comparison whether the claim holds there; None where it cannot be told.
    decides
        What the claim depends on where settings contradict one another.
    """
    if not verdicts:
        return Finding()
    told = {holds for _, holds in verdicts if holds is not None}
    verdict = {frozenset(): UNTOLD, frozenset([True]): HOLDS, frozenset([False]): FAILS}.get(
        frozenset(told), f"{DEPENDS} on {decides}"
    )
    return Finding(verdict, compared=tuple(one for one, _ in verdicts))


def plain_verdict(verdict: str) -> str:
    """Give the one of `VERDICTS` that a verdict begins with: "holds" of "holds within 99 passes"."""
    return next(plain for plain in VERDICTS if verdict.startswith(plain))


def says_better(found: Mapping[str, Any]) -> bool | None:
    """Tell whether the first arm is better; None where it cannot be told."""
    return None if found["verdict"] in NO_VERDICT else found["verdict"] == BETTER


def says_no_worse(found: Mapping[str, Any]) -> bool | None:
    """Tell whether the first arm loses nothing: it is better, or as good within the margin of equivalence."""
    return None if found["verdict"] in NO_VERDICT else found["verdict"] in (BETTER, EQUIVALENT)


def says_within(one: Compared, nats: float) -> bool | None:
    """Tell whether the first arm loses at most so much: its whole interval is below that, or above."""
    if not one.knows_seeds:
        return None
    if one.found["difference_high"] <= nats:
        return True
    return False if one.found["difference_low"] > nats else None
