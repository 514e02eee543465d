"""The experiments of notebook 11 that need trained weights: names hidden in real text, and contexts cut short."""

import logging
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from newllm.config.notebooks import Recall
from newllm.config.usual import usual_values
from newllm.data import TextData
from newllm.data.windows import TokenWindows
from newllm.evaluation import needle, truncation
from newllm.evaluation.needle import CLOSE, SENTENCES, Needle, ask_needles, fewest_tokens, known_names, make_needle
from newllm.evaluation.truncation import SHORTEST_WINDOW, score_truncated
from newllm.experiments.weights import measure_trials
from newllm.runs.saved_model import load_model
from newllm.runtime import choose_device

logger = logging.getLogger(__name__)
NEEDLES, TRUNCATION = "needles", "truncation"


def check_needles(parameters: Recall) -> None:
    """Refuse distances, and numbers of times, that no window has room for, whatever the tokenizer.

    Usual values serve windows of every length.

    Parameters
    ----------
    parameters
        The notebook's.

    Raises
    ------
    ValueError
        In one sentence.
    """
    distances, times, room = parameters.needle_distances, parameters.needle_times, parameters.seq_length
    least = {
        "needle_distances": {each: fewest_tokens(each, min(times)) for each in distances},
        "needle_times": {each: fewest_tokens(min(distances), each) for each in times},
    }
    for name, needed in least.items():
        usual = usual_values(parameters, name)
        beyond = [each for each in needed if needed[each] > room and each not in usual]
        if beyond:
            raise ValueError(
                f"{name} holds {beyond[0]}, whose texts have {needed[beyond[0]]} tokens or more with the sentences, "
                f"but a window has {room}: leave it out, or take a larger seq_length"
            )


def find_needles(records: pd.DataFrame, parameters: Recall, data: TextData, folder: Path) -> pd.DataFrame:
    """Ask trained models for names that they have read, or take over where that was done.

    Parameters
    ----------
    records
        Rows of `newllm.experiments.comparison.compare`. Of each arm the first seed is asked.
    parameters
        Names, distances, how often sentences are said, and in how many windows; the device.
    data
        Test windows, and the tokenizer. Names of several tokens are left out. A warning says why nothing is asked.
    folder
        Of the notebook's run.

    Returns
    -------
    pandas.DataFrame
        The rows of `newllm.evaluation.needle.ask_needles`, with ``arm`` and ``seed``; none without weights, where
        fewer than two names are a single token, or where no window has room for the sentences.
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
        assert asked_needle is not None
        table = ask_needles(
            load_model(trial["folder"]),
            asked_needle,
            data.test.rows()[chosen, :-1],
            data.test.document_groups[chosen],
            distances=parameters.needle_distances,
            times=parameters.needle_times,
            device=choose_device(parameters.device),
        )
        return {NEEDLES: table}

    asked_needle = make_needle(data.tokenizer, names) if len(names) > 1 else None
    reason = _why_no_needle(asked_needle, parameters, data.test.seq_length)
    if reason is not None:
        logger.warning("No model is asked for names: %s.", reason)
    asked = records.drop_duplicates("arm") if reason is None else records[:0]
    found = measure_trials(asked, parameters, folder, NEEDLES, settings, ask)
    return found.get(NEEDLES, pd.DataFrame(columns=["arm", "seed", *needle.COLUMNS]))


def _why_no_needle(asked: Needle | None, parameters: Recall, room: int) -> str | None:
    """Say why no model can be asked, whatever weights are here; None where one can."""
    if asked is None:
        return "fewer than two of needle_names are a single token of this tokenizer"
    fewest = asked.text_tokens(min(parameters.needle_distances), min(parameters.needle_times))
    if fewest > room:
        return (
            f"with the sentences the shortest text has {fewest} tokens of this tokenizer, but a window has {room}: "
            "give shorter needle_distances, or a larger seq_length"
        )
    return None


def cut_contexts(records: pd.DataFrame, parameters: Recall, windows: TokenWindows, folder: Path) -> pd.DataFrame:
    """Score trained models that see their last tokens alone, or take over where that was done.

    Parameters
    ----------
    records, folder
        As for `find_needles`.
    parameters
        How many tokens are seen, and in how many windows; the device. Contexts that are no shorter than a window are
        left out.
    windows
        Test windows, of which some are read, evenly spread.

    Returns
    -------
    pandas.DataFrame
        The rows of `newllm.evaluation.truncation.score_truncated`, with ``arm`` and ``seed``; none without weights, or
        where windows are too short.
    """
    chosen = _spread(windows, parameters.truncated_windows)
    contexts = sorted(each for each in parameters.truncated_contexts if each < windows.seq_length)
    settings = {"contexts": contexts, "windows": len(chosen)}

    def score(trial: pd.Series) -> dict[str, pd.DataFrame]:
        table = score_truncated(
            load_model(trial["folder"]),
            windows.rows()[chosen],
            windows.document_groups[chosen],
            contexts,
            device=choose_device(parameters.device),
        )
        return {TRUNCATION: table}

    scored = records.drop_duplicates("arm") if windows.seq_length >= SHORTEST_WINDOW else records[:0]
    found = measure_trials(scored, parameters, folder, TRUNCATION, settings, score)
    return found.get(TRUNCATION, pd.DataFrame(columns=["arm", "seed", *truncation.COLUMNS]))


def _spread(windows: TokenWindows, count: int) -> NDArray[np.int64]:
    """Return which windows are read, evenly spread over all, so that all documents are among them."""
    return np.unique(np.linspace(0, len(windows) - 1, min(count, len(windows))).astype(np.int64))
