"""The experiments of notebook 11 that need trained weights: names hidden in real text, and contexts cut short."""

from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from newllm.config.notebooks import Recall
from newllm.data import TextData
from newllm.data.windows import TokenWindows
from newllm.evaluation import needle, truncation
from newllm.evaluation.needle import CLOSE, SENTENCES, ask_needles, known_names, make_needle
from newllm.evaluation.truncation import SHORTEST_WINDOW, score_truncated
from newllm.experiments.weights import measure_trials
from newllm.runs.saved_model import load_model
from newllm.runtime import choose_device

NEEDLES, TRUNCATION = "needles", "truncation"


def find_needles(records: pd.DataFrame, parameters: Recall, data: TextData, folder: Path) -> pd.DataFrame:
    """Ask trained models for names that they have read, or take over where that was done.

    Parameters
    ----------
    records
        Rows of `newllm.experiments.comparison.compare`. Of each arm the first seed is asked.
    parameters
        Names, distances, how often sentences are said, and in how many windows; the device.
    data
        Test windows, and the tokenizer. Names of several tokens are left out.
    folder
        Of the notebook's run.

    Returns
    -------
    pandas.DataFrame
        The rows of `newllm.evaluation.needle.ask_needles`, with ``arm`` and ``seed``; none without weights, or where
        fewer than two names are a single token.
    """
    names = known_names(data.tokenizer, parameters.needle_names)
    chosen = _spread(data.test, parameters.needle_windows)
    settings = {
        "sentences": [*SENTENCES, CLOSE],
        "names": names,
        "distances": list(parameters.needle_distances),
        "times": list(parameters.needle_times),
        "windows": len(chosen),
    }

    def ask(trial: pd.Series) -> dict[str, pd.DataFrame]:
        table = ask_needles(
            load_model(trial["folder"]),
            make_needle(data.tokenizer, names),
            data.test.rows()[chosen, :-1],
            data.test.document_groups[chosen],
            distances=parameters.needle_distances,
            times=parameters.needle_times,
            device=choose_device(parameters.device),
        )
        return {NEEDLES: table}

    asked = records.drop_duplicates("arm") if len(names) > 1 else records[:0]
    found = measure_trials(asked, parameters, folder, NEEDLES, settings, ask)
    return found.get(NEEDLES, pd.DataFrame(columns=["arm", "seed", *needle.COLUMNS]))


def cut_contexts(records: pd.DataFrame, parameters: Recall, windows: TokenWindows, folder: Path) -> pd.DataFrame:
    """Score trained models that see their last tokens alone, or take over where that was done.

    Parameters
    ----------
    records, folder
        As for `find_needles`.
    parameters
        How many tokens are seen, and in how many windows; the device.
    windows
        Test windows, of which some are read, evenly spread.

    Returns
    -------
    pandas.DataFrame
        The rows of `newllm.evaluation.truncation.score_truncated`, with ``arm`` and ``seed``; none without weights, or
        where windows are too short.
    """
    chosen = _spread(windows, parameters.truncated_windows)
    settings = {"contexts": sorted(parameters.truncated_contexts), "windows": len(chosen)}

    def score(trial: pd.Series) -> dict[str, pd.DataFrame]:
        table = score_truncated(
            load_model(trial["folder"]),
            windows.rows()[chosen],
            windows.document_groups[chosen],
            parameters.truncated_contexts,
            device=choose_device(parameters.device),
        )
        return {TRUNCATION: table}

    scored = records.drop_duplicates("arm") if windows.seq_length >= SHORTEST_WINDOW else records[:0]
    found = measure_trials(scored, parameters, folder, TRUNCATION, settings, score)
    return found.get(TRUNCATION, pd.DataFrame(columns=["arm", "seed", *truncation.COLUMNS]))


def _spread(windows: TokenWindows, count: int) -> NDArray[np.int64]:
    """Return which windows are read, evenly spread over all, so that all documents are among them."""
    return np.unique(np.linspace(0, len(windows) - 1, min(count, len(windows))).astype(np.int64))
