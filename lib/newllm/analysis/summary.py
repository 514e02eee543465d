"""What finished trials left: their histories, and what all seeds of an arm say together."""

import json
import logging
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from newllm.analysis.tables import budget_text
from newllm.evaluation.statistics import difference_over_windows_and_seeds, mean_interval
from newllm.experiments.scoring import EVALUATION_FILE, HISTORY_FILE

logger = logging.getLogger(__name__)

SAME_OVER_SEEDS = ("parameter_count", "kv_bytes_per_token", "kv_bytes", "block_width")
MEASURES = ("perplexity", "bits_per_byte", "accuracy", "stream_perplexity", "effective_rank", "convergence_rate")


def summarize_arms(records: pd.DataFrame, baseline: str | None = None, by: Sequence[str] = ()) -> pd.DataFrame:
    """Compare arms: means with their intervals over seeds, and differences from a baseline on the same windows.

    Parameters
    ----------
    records
        Rows of `newllm.experiments.comparison.compare`.
    baseline
        Name of the arm to take differences from; None leaves them out.
    by
        Columns whose values tell rows of one arm apart; an arm is compared with the baseline of the same values.

    Returns
    -------
    pandas.DataFrame
        One row an arm, the lowest perplexity first: the columns ``by``, ``arm``, ``seeds``, ``parameter_count``,
        ``kv_bytes_per_token``, ``kv_bytes`` of a held-out window, ``block_width``, ``budget`` in words; for each
        measure that all its seeds have, the mean, ``_low`` and ``_high`` (95 %, Student's t; NaN with one seed); with
        a baseline, ``difference`` in nats per token
        (negative is better) with the interval over the windows, seeds averaged, and ``difference_over_seeds_low`` and
        ``_high``, the interval over the seeds that both arms have.
    """
    rows = []
    for key, group in records.groupby([*by, "arm"], sort=False, dropna=False):
        *values, arm = key
        row: dict[str, Any] = dict(zip(by, values, strict=True)) | {"arm": arm, "seeds": len(group)}
        row |= {name: group[name].iloc[0] for name in SAME_OVER_SEEDS if name in group}
        if "parameters" in group:
            row["budget"] = budget_text(group["parameters"].iloc[0])
        for measure in MEASURES:
            if measure in group and np.isfinite(group[measure].astype(float)).all():
                row |= mean_interval(group[measure]).columns(measure)
        if baseline is not None and arm != baseline:
            beside = records[records["arm"] == baseline]
            for name, value in zip(by, values, strict=True):
                beside = beside[beside[name] == value]
            row |= _difference(group, beside)
        rows.append(row)
    return pd.DataFrame(rows).sort_values("perplexity", ignore_index=True)


def _difference(group: pd.DataFrame, reference: pd.DataFrame) -> dict[str, float]:
    """Paired difference of an arm from the baseline, over the seeds of which both have the losses of as many windows.

    Nothing is known where either has none, such as a record that was published without them.
    """
    ours, theirs = (
        {row["seed"]: window_losses(row["folder"]) for _, row in each.iterrows()} for each in (group, reference)
    )
    pairs = [(ours[seed], theirs[seed]) for seed in sorted(ours.keys() & theirs.keys())]
    pairs = [(first, second) for first, second in pairs if first.size and first.shape == second.shape]
    if not pairs or len({first.shape for first, _ in pairs}) > 1:
        return {"difference": math.nan}
    return difference_over_windows_and_seeds(*map(np.stack, zip(*pairs, strict=True)))


def window_losses(folder: Path) -> NDArray[np.float64]:
    """Read the mean loss of each held-out window (N,) of a finished trial; none, with a warning, where there are none.

    Parameters
    ----------
    folder
        The trial's.
    """
    path = folder / EVALUATION_FILE
    try:
        losses = np.asarray(json.loads(path.read_bytes())["window_losses"], dtype=np.float64)
    except FileNotFoundError:
        return np.empty(0)
    except (OSError, ValueError, TypeError, KeyError) as error:
        logger.warning("%s holds no losses of windows (%s): no difference is taken of it.", path, error)
        return np.empty(0)
    return losses if losses.ndim == 1 and np.isfinite(losses).all() else np.empty(0)


def histories(records: pd.DataFrame) -> pd.DataFrame:
    """Read the main training of each record: one row an epoch, with ``arm`` and ``seed``.

    Parameters
    ----------
    records
        Rows of `newllm.experiments.comparison.compare`.
    """
    return _rows_of(records, HISTORY_FILE, "main")


def positions(records: pd.DataFrame) -> pd.DataFrame:
    """Read the perplexity by position of each record: one row a band (start, end), with ``arm`` and ``seed``.

    Parameters
    ----------
    records
        Rows of `newllm.experiments.comparison.compare`.
    """
    return _rows_of(records, EVALUATION_FILE, "positions")


def _rows_of(records: pd.DataFrame, file: str, entry: str) -> pd.DataFrame:
    """Gather a list of rows from a file in the folder of each record."""
    frames = []
    for _, record in records.iterrows():
        stored = json.loads((record["folder"] / file).read_text(encoding="utf-8"))
        frames.append(pd.DataFrame(stored[entry]).assign(arm=record["arm"], seed=record["seed"]))
    return pd.concat(frames, ignore_index=True)
