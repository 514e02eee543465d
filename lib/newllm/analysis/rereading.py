"""Models that are read in another way than they were trained: one method's weights in another method's decoding."""

from collections.abc import Hashable, Sequence
from typing import Any

import numpy as np
import pandas as pd
import torch

from newllm.analysis.differences import DIFFERENCE_COLUMNS, ArmLosses, compare_pairs
from newllm.data import TokenWindows
from newllm.evaluation.perplexity import evaluate
from newllm.runs.saved_model import load_model

# Decoding is many small steps, which cost little more with many windows side by side.
WINDOWS_AT_ONCE = 64
ONE_PASS = "in one pass"
CACHED = "through the cache"

# What there is even where none of the methods was trained.
READINGS = ["trained_as", "read_as", "scored", "seeds", "perplexity", *DIFFERENCE_COLUMNS, "largest_difference"]


def exchange(
    records: pd.DataFrame,
    methods: Sequence[str],
    windows: TokenWindows,
    *,
    tokens_a_step: int,
    device: torch.device | str | None = None,
) -> pd.DataFrame:
    """Read the trained models of some methods as each of these methods, and compare with reading them as trained.

    Each is scored through the cache, as it would be decoded; as what it was trained to be also in one pass, which is
    what the others are compared with, on the same windows and seeds.

    Parameters
    ----------
    records
        Rows of `newllm.experiments.comparison.compare`; those whose arm is one of ``methods`` are read.
    methods
        Names of models that share names and shapes of weights, such as ``pythia`` and ``ka``.
    windows
        Held-out windows.
    tokens_a_step
        Tokens of each call through the cache.
    device
        Where to score.

    Returns
    -------
    pandas.DataFrame
        One row a combination: ``trained_as``, ``read_as``, ``scored``, ``seeds``, ``perplexity`` (geometric mean over
        the seeds); the difference from the same weights read as trained in one pass, in the columns of
        `newllm.analysis.differences.compare_pairs` (none for that reading itself); and ``largest_difference`` of a
        single window, in nats per token.
    """
    rows: list[dict[str, Any]] = []
    known: dict[Hashable, ArmLosses | None] = {}
    pairs: dict[int, tuple[Hashable, Hashable]] = {}
    for trained_as in (method for method in methods if method in set(records["arm"])):
        trials = records[records["arm"] == trained_as]
        reference = np.empty(0)
        for read_as in sorted(methods, key=lambda method: method != trained_as):
            for scored in (ONE_PASS, CACHED) if read_as == trained_as else (CACHED,):
                step = tokens_a_step if scored == CACHED else None
                losses = np.stack(
                    [
                        evaluate(
                            load_model(folder, method=read_as),
                            windows,
                            batch_size=WINDOWS_AT_ONCE,
                            device=device,
                            tokens_a_step=step,
                        ).window_losses
                        for folder in trials["folder"]
                    ]
                )
                reading = (trained_as, read_as, scored)
                known[reading] = ArmLosses(dict(zip(trials["seed"], losses, strict=True)), windows.document_groups)
                if scored == ONE_PASS:
                    reference = losses
                else:
                    pairs[len(rows)] = (reading, (trained_as, trained_as, ONE_PASS))
                rows.append(
                    {
                        "trained_as": trained_as,
                        "read_as": read_as,
                        "scored": scored,
                        "seeds": len(losses),
                        "perplexity": float(np.exp(losses.mean())),
                        "largest_difference": float(np.abs(losses - reference).max()),
                    }
                )
    for place, found in zip(pairs, compare_pairs(known, list(pairs.values()), have_same_weights=True), strict=True):
        rows[place] |= found
    return pd.DataFrame(rows, columns=READINGS)
