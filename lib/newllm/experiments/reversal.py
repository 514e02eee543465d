"""The reversal curse across models: every arm trained with facts in its text and without, then asked both ways."""

import dataclasses
import functools
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from transformers import PreTrainedTokenizerFast

from newllm.config.notebooks import ReversalCurse
from newllm.data import prepare_data
from newllm.data.facts import Fact, load_facts
from newllm.evaluation.reversal import (
    DIRECTIONS,
    EVERY_CATEGORY,
    evaluate_reversal_curse,
    over_categories,
)
from newllm.evaluation.statistics import Interval, mean_interval
from newllm.experiments.comparison import compare
from newllm.experiments.weights import measure_trials, part_of_trial
from newllm.files import SAVED_MODEL
from newllm.runs.folder import Run
from newllm.runs.parts import Part, find_part
from newllm.runs.saved_model import load_model
from newllm.runtime import choose_device

# Folders of the two trainings in a run, by whether the facts were among the text.
ANSWERS = "answers"
FOLDERS = {False: "text", True: "text_and_facts"}


@dataclass(frozen=True)
class ReversalComparison:
    """What models know of facts that they were taught in one direction, or not at all.

    Attributes
    ----------
    records
        One row a trained model: the rows of `newllm.experiments.comparison.compare` with ``taught``.
    models
        One row a trained model and category (one row is of all facts): arm, seed, taught, and the columns of
        `newllm.evaluation.reversal.ReversalReport.categories`.
    facts
        One row a trained model and fact: arm, seed, taught, and the columns of
        `newllm.evaluation.reversal.ReversalReport.facts`.
    """

    records: pd.DataFrame
    models: pd.DataFrame
    facts: pd.DataFrame


def compare_reversal(parameters: ReversalCurse, folder: Path) -> ReversalComparison:
    """Train every arm on the text, and again on the text with the facts in it, and ask both.

    The second training text is the first with whole windows of forward sentences behind it, so that the two differ by
    the facts alone.

    Parameters
    ----------
    parameters
        Arms, seeds and training; ``facts_file`` for facts of the user's own.
    folder
        Where the trials lie, in a folder for either training.

    Raises
    ------
    ValueError, FileNotFoundError
        Before anything is trained, where the facts cannot be read, or a category has one fact or several relations.
    """
    facts = load_facts(parameters.facts_file)
    records: list[pd.DataFrame] = []
    by_category: list[pd.DataFrame] = []
    by_fact: list[pd.DataFrame] = []
    for taught, name in FOLDERS.items():
        data = prepare_data(parameters, facts=facts if taught else (), repetitions=parameters.fact_repetitions)
        place = folder / name
        trials = compare(parameters, data, place)
        ask = functools.partial(_ask, data.tokenizer, facts, choose_device(parameters.device))
        # Of trials that were taken over without weights, where nobody has asked them these facts.
        runs = [Run(trial["folder"], trial["parameters"]) for _, trial in trials.iterrows()]
        mute = [
            run
            for run in runs
            if not (run.folder / SAVED_MODEL).is_dir()
            and find_part(answers_part(facts, run), place, rerun=parameters.rerun) is None
        ]
        if mute:
            for run in mute:
                run.clear()
            trials = compare(parameters, data, place, need_weights=True)
        records.append(trials.assign(taught=taught))
        found = measure_trials(trials, parameters, place, ANSWERS, _asked(facts), ask)
        by_category.append(found["categories"].assign(taught=taught))
        by_fact.append(found["facts"].assign(taught=taught))
    return ReversalComparison(*(pd.concat(frames, ignore_index=True) for frames in (records, by_category, by_fact)))


def answers_part(facts: Sequence[Fact], trial: Run) -> Part:
    """Return the part in which a trained model is asked the facts.

    Parameters
    ----------
    facts
        What is asked.
    trial
        The run of the model's trial.
    """
    return part_of_trial(trial.folder.name, trial.identity, ANSWERS, _asked(facts))


def _asked(facts: Sequence[Fact]) -> dict[str, Any]:
    return {"facts": [dataclasses.asdict(fact) for fact in facts]}


def _ask(
    tokenizer: PreTrainedTokenizerFast, facts: Sequence[Fact], device: torch.device, trial: pd.Series
) -> dict[str, pd.DataFrame]:
    """Ask a trained model every fact in both directions."""
    report = evaluate_reversal_curse(load_model(trial["folder"]), tokenizer, facts, device)
    return {"categories": report.categories, "facts": report.facts.assign(fact=range(len(facts)))}


def summarize_reversal(comparison: ReversalComparison) -> pd.DataFrame:
    """Condense a comparison to one row an arm and training.

    Returns
    -------
    pandas.DataFrame
        ``arm``, ``taught``, ``seeds``; ``text_perplexity`` (held-out text); ``forward_perplexity``,
        ``backward_perplexity``, ``ratio``, ``gap`` and the shares ``forward_first`` and ``backward_first``, means over
        seeds, the perplexities with ``_low`` and ``_high`` (95 %, Student's t over seeds; NaN with one);
        ``forward_margin`` and ``backward_margin`` in nats with ``_low`` and ``_high`` (95 %, over categories of facts,
        seeds averaged); and for the taught ones ``forward_gain`` and ``backward_gain``, by how much the margin of each
        fact is above that of the same arm and seeds that were not taught it, likewise.
    """
    rows = []
    for arm in comparison.records["arm"].unique():
        margins = {taught: _margins(comparison.facts, arm, taught) for taught in FOLDERS}
        for taught, known in margins.items():
            records, group = (_rows(frame, arm, taught) for frame in (comparison.records, comparison.models))
            group = group[group["category"] == EVERY_CATEGORY]
            row: dict[str, Any] = {"arm": arm, "taught": taught, "seeds": len(group)}
            row["text_perplexity"] = records["perplexity"].mean()
            for direction in DIRECTIONS:
                row |= mean_interval(group[f"{direction}_perplexity"]).columns(f"{direction}_perplexity")
                row |= _interval(known[f"{direction}_margin"]).columns(f"{direction}_margin")
                row[f"{direction}_first"] = group[f"{direction}_first"].mean()
                if taught:
                    gained = known[f"{direction}_margin"] - margins[False][f"{direction}_margin"]
                    row |= _interval(gained).columns(f"{direction}_gain")
            rows.append(row | {name: group[name].mean() for name in ("ratio", "gap")})
    return pd.DataFrame(rows)


def _rows(frame: pd.DataFrame, arm: str, taught: bool) -> pd.DataFrame:
    return frame[(frame["arm"] == arm) & (frame["taught"] == taught)]


def _margins(facts: pd.DataFrame, arm: str, taught: bool) -> pd.DataFrame:
    """Margins of each fact, by its category and number, seeds averaged."""
    return (
        _rows(facts, arm, taught)
        .groupby(["category", "fact"], sort=False)[[f"{name}_margin" for name in DIRECTIONS]]
        .mean()
    )


def _interval(values: pd.Series) -> Interval:
    return over_categories(values, values.index.get_level_values("category").to_series())
