"""Models that are read in another way than they were trained: one method's weights in another method's decoding."""

from collections.abc import Hashable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from newllm.analysis.differences import DIFFERENCE_COLUMNS, ArmLosses, compare_pairs
from newllm.config.notebooks import KeyAttention
from newllm.data import TokenWindows
from newllm.evaluation.perplexity import evaluate
from newllm.experiments.weights import measure_trials
from newllm.runs.saved_model import load_model
from newllm.runtime import choose_device

# Decoding is many small steps, which cost little more with many windows side by side.
WINDOWS_AT_ONCE = 64
ONE_PASS = "in one pass"
CACHED = "through the cache"

# What there is even where none of the methods was trained.
READINGS = ["trained_as", "read_as", "scored", "seeds", "perplexity", *DIFFERENCE_COLUMNS, "largest_difference"]


def exchange(
    records: pd.DataFrame, methods: Sequence[str], windows: TokenWindows, parameters: KeyAttention, folder: Path
) -> pd.DataFrame:
    """Read the trained models of some methods as each of these methods, and compare with reading them as trained.

    Each is scored through the cache, as it would be decoded; as what it was trained to be also in one pass, which is
    what the others are compared with, on the same windows and seeds. Scores that were taken before are taken over.

    Parameters
    ----------
    records
        Rows of `newllm.experiments.comparison.compare`; those whose arm is one of ``methods`` are read.
    methods
        Names of models that share names and shapes of weights, such as ``pythia`` and ``ka``.
    windows
        Held-out windows.
    parameters
        Tokens of each call through the cache; the device.
    folder
        Of the notebook's run.

    Returns
    -------
    pandas.DataFrame
        One row a combination: ``trained_as``, ``read_as``, ``scored``, ``seeds``, ``perplexity`` (geometric mean over
        the seeds); the difference from the same weights read as trained in one pass, in the columns of
        `newllm.analysis.differences.compare_pairs` (none for that reading itself); and ``largest_difference`` of a
        single window, in nats per token.
    """
    chosen = records[records["arm"].isin(list(methods))]
    settings = {"methods": list(methods), "tokens_a_step": parameters.tokens_a_step}

    def read(trial: pd.Series) -> dict[str, pd.DataFrame]:
        return {"losses": _read(trial, methods, windows, parameters)}

    found = measure_trials(chosen, parameters, folder, "readings", settings, read)
    if not found:
        return pd.DataFrame(columns=READINGS)
    scored = found["losses"]
    rows: list[dict[str, Any]] = []
    known: dict[Hashable, ArmLosses | None] = {}
    pairs: dict[int, tuple[Hashable, Hashable]] = {}
    for trained_as in (method for method in methods if method in set(scored["arm"])):
        as_trained: tuple[Hashable, ...] = (trained_as, trained_as, ONE_PASS)
        readings = scored[scored["arm"] == trained_as].groupby(["read_as", "scored"], sort=False)
        by_window = {
            (trained_as, *reading): group.pivot(index="seed", columns="window", values="loss")
            for reading, group in readings
        }
        seeds = by_window[as_trained].index
        losses = {reading: frame.loc[seeds].to_numpy() for reading, frame in by_window.items()}
        for reading, by_seed in losses.items():
            known[reading] = ArmLosses(dict(zip(seeds, by_seed, strict=True)), windows.document_groups)
            if reading != as_trained:
                pairs[len(rows)] = (reading, as_trained)
            rows.append(
                {
                    **dict(zip(("trained_as", "read_as", "scored"), reading, strict=True)),
                    "seeds": len(by_seed),
                    "perplexity": float(np.exp(by_seed.mean())),
                    "largest_difference": float(np.abs(by_seed - losses[as_trained]).max()),
                }
            )
    for place, said in zip(pairs, compare_pairs(known, list(pairs.values()), have_same_weights=True), strict=True):
        rows[place] |= said
    return pd.DataFrame(rows, columns=READINGS)


def _read(trial: pd.Series, methods: Sequence[str], windows: TokenWindows, parameters: KeyAttention) -> pd.DataFrame:
    """Read one trained model in every way: the mean loss of each window, the way it was trained first."""
    frames = []
    for read_as in sorted(methods, key=lambda method: method != trial["arm"]):
        for scored in (ONE_PASS, CACHED) if read_as == trial["arm"] else (CACHED,):
            losses = evaluate(
                load_model(trial["folder"], method=read_as),
                windows,
                batch_size=WINDOWS_AT_ONCE,
                device=choose_device(parameters.device),
                tokens_a_step=parameters.tokens_a_step if scored == CACHED else None,
            ).window_losses
            frames.append(
                pd.DataFrame({"read_as": read_as, "scored": scored, "window": range(len(losses)), "loss": losses})
            )
    return pd.concat(frames, ignore_index=True)
