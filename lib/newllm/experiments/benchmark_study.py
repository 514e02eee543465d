"""Benchmarks beside the scores of a comparison: every trained model is asked once, and what it answers is kept."""

import math
from collections.abc import Callable, Mapping
from pathlib import Path

import pandas as pd

from newllm.benchmarks import scores
from newllm.benchmarks.lambada import read_passages
from newllm.benchmarks.scores import Question, Settings
from newllm.benchmarks.wikitext import read_wikitext
from newllm.config.benchmarks import LAMBADA, WIKITEXT, Benchmark
from newllm.config.experiment import ExperimentParameters
from newllm.experiments.weights import measure_trials
from newllm.runs.saved_model import load_trained_model
from newllm.runtime import choose_device, move

QUESTIONS: dict[str, Callable[[Path | None], Question]] = {LAMBADA: scores.lambada, WIKITEXT: scores.wikitext}
READERS: dict[str, Callable[[Path | None], object]] = {LAMBADA: read_passages, WIKITEXT: read_wikitext}

# What tables show of each, of all that a benchmark finds. A word's perplexity, so that tokenizers can be compared.
MEASURES = {LAMBADA: ("accuracy", "perplexity"), WIKITEXT: ("word_perplexity", "bits_per_byte")}
BENCHMARK_COLUMNS = tuple(f"{name}_{measure}" for name, measures in MEASURES.items() for measure in measures)
FOLDER, TABLE = "benchmarks", "scores"


def check_benchmark_files(parameters: ExperimentParameters) -> None:
    """Refuse files of benchmarks that are not there, or hold something else.

    Raises
    ------
    ValueError, FileNotFoundError
        In one sentence: what is wrong.
    """
    for benchmark in parameters.asked_benchmarks():
        if benchmark.file is not None:
            READERS[benchmark.name](benchmark.file)


def check_benchmark_hub(parameters: ExperimentParameters) -> None:
    """Refuse benchmarks of a hub that does not give them, before hours of training.

    Raises
    ------
    HubUnavailableError
        The hub did not answer.
    """
    for benchmark in parameters.asked_benchmarks():
        if benchmark.file is None:
            READERS[benchmark.name](None)


def ask_benchmarks(
    records: pd.DataFrame, parameters: ExperimentParameters, folder: Path, loaded: Mapping[str, str]
) -> pd.DataFrame:
    """Ask each trained model what ``benchmarks`` names, or take over what it answered before.

    A model reads windows of the length that it was trained at.

    Parameters
    ----------
    records
        Rows of trials, and of models that were only scored.
    parameters
        Of the comparison.
    folder
        Of the run; its folder ``benchmarks`` keeps every number with its interval.
    loaded
        Where the models are that were only scored, by arm.

    Returns
    -------
    pandas.DataFrame
        The rows with a column for each of `MEASURES` that was asked, ``lambada_accuracy`` and the like; NaN where a
        model's weights are not here.

    Raises
    ------
    HubUnavailableError
        Where a benchmark of the hub cannot be read.
    """
    for benchmark in parameters.asked_benchmarks():
        found = _ask(benchmark, records, parameters, folder, loaded)
        records = records.merge(found, on=["arm", "seed"], how="left")
    return records


def _ask(
    benchmark: Benchmark,
    records: pd.DataFrame,
    parameters: ExperimentParameters,
    folder: Path,
    loaded: Mapping[str, str],
) -> pd.DataFrame:
    """Return a row for each arm and seed that answered, with the measures of one benchmark."""

    def measure(row: pd.Series) -> dict[str, pd.DataFrame]:
        trained = load_trained_model(row["folder"])
        device = choose_device(parameters.device)
        move(trained.model, device)
        question = QUESTIONS[benchmark.name](benchmark.file)
        (answer,) = question.ask(trained, Settings(window=parameters.seq_length), device)
        return {TABLE: pd.DataFrame(answer.scores)}

    settings = {"benchmark": benchmark.identity(), "window": parameters.seq_length}
    tables = measure_trials(records, parameters, folder, f"{FOLDER}/{benchmark.name}", settings, measure, loaded)
    columns = {measure: f"{benchmark.name}_{measure}" for measure in MEASURES[benchmark.name]}
    if TABLE not in tables:
        return records.loc[[], ["arm", "seed"]].assign(**dict.fromkeys(columns.values(), math.nan))
    answers = tables[TABLE].pivot(index=["arm", "seed"], columns="measure", values="value")
    return answers[list(columns)].rename(columns=columns).reset_index()
