"""What finished trials left: their histories, and what all seeds of an arm say together."""

import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas
import pandas as pd

from newllm.evaluation.statistics import difference_over_windows_and_seeds, mean_interval
from newllm.experiments.scoring import EVALUATION_FILE, HISTORY_FILE

MEASURES = ("perplexity", "bits_per_byte", "accuracy", "run_on_perplexity", "effective_rank", "convergence_rate")


def summarize_arms(records: pd.DataFrame, baseline: str | None = None) -> pd.DataFrame:
    """Compare arms: means with their intervals over seeds, and differences from a baseline on the same windows.

    Parameters
    ----------
    records
        Rows of `compare`.
    baseline
        Name of the arm to take differences from; None leaves them out.

    Returns
    -------
    pandas.DataFrame
        One row an arm, the lowest perplexity first: ``arm``, ``seeds``, ``parameter_count``, ``kv_bytes_per_token``,
        ``kv_bytes`` of a held-out window; for each measure its mean, ``_low`` and ``_high`` (95 %, Student's t; NaN
        with one seed); with a baseline, ``difference`` in nats per token (negative is better) with the interval over
        the windows, seeds averaged, and ``difference_over_seeds_low`` and ``_high``, the interval over the seeds that
        both arms have.
    """
    rows = []
    for arm, group in records.groupby("arm", sort=False):
        row: dict[str, Any] = {"arm": arm, "seeds": len(group)}
        row |= {name: group[name].iloc[0] for name in ("parameter_count", "kv_bytes_per_token", "kv_bytes")}
        for measure_name in MEASURES:
            if measure_name in group and group[measure_name].notna().all():
                row |= mean_interval(group[measure_name]).columns(measure_name)
        if baseline is not None and arm != baseline:
            row |= _difference(group, records[records["arm"] == baseline])
        rows.append(row)
    return pd.DataFrame(rows).sort_values("perplexity", ignore_index=True)


def _difference(group: pd.DataFrame, reference: pd.DataFrame) -> dict[str, float]:
    """Paired difference of an arm from the baseline, over the seeds of which both have the losses by window."""
    group, reference = (
        frame[[(folder / EVALUATION_FILE).is_file() for folder in frame["folder"]]] for frame in (group, reference)
    )
    seeds = sorted(set(group["seed"]) & set(reference["seed"]))
    if not seeds:
        return {"difference": math.nan}
    ours, theirs = (
        np.stack([_window_losses(frame.set_index("seed").loc[seed, "folder"]) for seed in seeds])
        for frame in (group, reference)
    )
    return difference_over_windows_and_seeds(ours, theirs)


def histories(records: pd.DataFrame) -> pd.DataFrame:
    """Read the main training of each record: one row an epoch, with ``arm`` and ``seed``.

    Parameters
    ----------
    records
        Rows of `compare`.
    """
    return _rows_of(records, HISTORY_FILE, "main")


def positions(records: pd.DataFrame) -> pd.DataFrame:
    """Read the perplexity by position of each record: one row a band (start, end), with ``arm`` and ``seed``.

    Parameters
    ----------
    records
        Rows of `compare`.
    """
    return _rows_of(records, EVALUATION_FILE, "positions")


def _rows_of(records: pd.DataFrame, file: str, entry: str) -> pd.DataFrame:
    """Gather a list of rows from a file in the folder of each record."""
    frames = []
    for _, record in records.iterrows():
        stored = json.loads((record["folder"] / file).read_text(encoding="utf-8"))
        frames.append(pd.DataFrame(stored[entry]).assign(arm=record["arm"], seed=record["seed"]))
    return pd.concat(frames, ignore_index=True)


def _window_losses(folder: Any) -> np.ndarray:
    """Mean loss of each held-out window (N,) of a finished trial."""
    return np.asarray(pd.read_json(Path(folder) / EVALUATION_FILE, typ="series")["window_losses"], dtype=np.float64)


def summarize(records: pandas.DataFrame, by: Sequence[str] = ()) -> pandas.DataFrame:
    """Return the table a run ends with: one row an arm, means over its seeds.

    Parameters
    ----------
    records
        Rows of `load_records`.
    by
        More columns whose values tell rows of one arm apart.

    Returns
    -------
    pandas.DataFrame
        The columns ``by``, model, parameters, KV bytes/token (measured), PPL, +- (standard deviation over the seeds),
        bits/byte, certificate and seeds, in the order of perplexity.
    """
    columns = records.reindex(columns=[*records.columns, *({"perplexity", "bits_per_byte"} - set(records.columns))])
    table = columns.groupby(["notebook", "profile", *by, "arm"], as_index=False, dropna=False).agg(
        **{
            "parameters": ("parameter_count", "first"),
            "KV bytes/token": ("kv_bytes_per_token", "mean"),
            "PPL": ("perplexity", "mean"),
            "±": ("perplexity", "std"),
            "bits/byte": ("bits_per_byte", "mean"),
            "certificate": ("certificate", lambda changes: f"passed ({changes.max():.0e})"),
            "seeds": ("seed", "nunique"),
        }
    )
    return table.rename(columns={"arm": "model"}).sort_values(["notebook", "profile", "PPL"], ignore_index=True)
