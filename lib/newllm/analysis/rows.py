"""Rows of tables: a row is what was trained, with every seed of it, whoever asked for it."""

import json
from collections.abc import Collection

import pandas as pd

from newllm.config.groups import EvaluationParameters

# Where and for whom a trial was run, and what its record says beside the losses: they decide nothing of it.
SURROUNDINGS = {"profile", "device", "arms", "seeds", *EvaluationParameters.model_fields}
FINGERPRINT_DIGITS = 32


def name_rows(records: pd.DataFrame, apart: Collection[str] = ()) -> list[str]:
    """Name the row that each record belongs to: its arm, and what tells it from other trials of the same arm.

    Parameters
    ----------
    records
        Rows of `newllm.runs.records_table.load_records`.
    apart
        Parameters that tell rows apart in another way, such as in columns of their own.

    Returns
    -------
    list of str
        The arm's name alone for the settings that most of its records have; for the others with the settings behind it
        in which they differ: ``pythia (lr 0.001)``.
    """
    names = pd.Series(index=records.index, dtype=object)
    left_out = {*SURROUNDINGS, *apart}
    for arm, group in records.groupby("arm"):
        settings = [{k: v for k, v in given.items() if k not in left_out} for given in group["parameters"]]
        keys = sorted(set().union(*settings))
        varying = [key for key in keys if len({json.dumps(row.get(key)) for row in settings}) > 1]
        said = pd.Series([", ".join(f"{key} {_short(row.get(key))}" for key in varying) for row in settings])
        usual = said.value_counts().index[0]
        names[group.index] = [arm if text == usual else f"{arm} ({text})" for text in said]
    return list(names)


def _short(value: object) -> str:
    """Write a setting; of a fingerprint the beginning, which tells it from others."""
    text = str(value)
    return text[:8] if len(text) == FINGERPRINT_DIGITS and text.isalnum() else text
