"""Rows of tables: a row is what was trained, with every seed of it, whoever asked for it."""

import json
import math
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from typing import Any

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
        As `name_by_settings` gives them: ``pythia (lr 0.001)``.
    """
    left_out = {*SURROUNDINGS, *apart}
    return name_by_settings(
        records, [{k: v for k, v in given.items() if k not in left_out} for given in records["parameters"]]
    )


def name_by_settings(
    records: pd.DataFrame, settings: Sequence[Mapping[str, Any]], preferred: Sequence[bool] | None = None
) -> list[str]:
    """Name each record by its arm and, where the arm has several settings, by those in which they differ.

    Parameters
    ----------
    records
        Rows with ``arm`` and ``seed``, and ``validation_loss`` where it is known.
    settings
        Of each record.
    preferred
        Whether a record is of settings whose rows keep the plain name; nothing where none are.

    Returns
    -------
    list of str
        The arm's name alone for its usual settings: the preferred ones, those of most of its trials, those of most
        trials of all arms, those of the lowest validation loss; never those of whichever record comes first. For the
        others with the settings behind it in which they differ.
    """
    arms, seeds = list(records["arm"]), list(records["seed"])
    losses = list(records["validation_loss"]) if "validation_loss" in records else [math.nan] * len(arms)
    is_preferred = [False] * len(arms) if preferred is None else preferred
    names = [""] * len(arms)
    for arm in dict.fromkeys(arms):
        places = [place for place, name in enumerate(arms) if name == arm]
        keys = sorted(set().union(*(settings[place] for place in places)))
        varying = [key for key in keys if len({json.dumps(settings[place].get(key)) for place in places}) > 1]
        said = [", ".join(f"{key} {_short(given.get(key))}" for key in varying) for given in settings]
        # A trial that was found twice is one.
        trials = Counter(text for _, _, text in set(zip(arms, seeds, said, strict=True)))
        rows = pd.DataFrame(
            {
                "said": [said[place] for place in places],
                "seed": [seeds[place] for place in places],
                "loss": [losses[place] for place in places],
                "preferred": [is_preferred[place] for place in places],
            }
        )
        by_settings = rows.groupby("said").agg(
            preferred=("preferred", "any"), seeds=("seed", "nunique"), loss=("loss", "mean")
        )
        by_settings["trials"] = by_settings.index.map(trials)
        order = by_settings.reset_index().sort_values(
            ["preferred", "seeds", "trials", "loss", "said"], ascending=[False, False, False, True, True]
        )
        usual = order["said"].iloc[0]
        for place in places:
            names[place] = arm if said[place] == usual else f"{arm} ({said[place]})"
    return names


def _short(value: object) -> str:
    """Write a setting; of a fingerprint the beginning, which tells it from others."""
    text = str(value)
    return text[:8] if len(text) == FINGERPRINT_DIGITS and text.isalnum() else text
