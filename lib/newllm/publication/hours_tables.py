"""The tables of RESULTS that say how long everything took that is published, and what such a time tells apart."""

import pandas as pd

from newllm.analysis.budgets import told_apart
from newllm.analysis.hours import SECONDS_PER_HOUR, hours_by_text, minutes_by_trial
from newllm.files import FINISHED_FILE, read_json, reference_folder
from newllm.models.registry import BASELINE
from newllm.publication.published import UnpublishedError, published_sweep
from newllm.retrofit.running import RETROFITS_FOLDER
from newllm.runs.records_table import load_records

# What is no trial with a record but has a time of its own, by where it is published.
OTHER_WORK = {
    "recurrences alone (notebook 01)": "01_projection_training/recurrences/*",
    "trainings with and without a leak (notebook 03)": "03_causal_masks/leak/*",
    "scores in longer windows (notebook 04)": "04_position_encodings/extrapolation/*",
    "answers to facts (notebook 05)": "05_reversal_curse/*/answers/*",
    "decoding steps (notebook 06)": "06_latent_attention/decoding",
    "scores through caches of fewer bits (notebook 06)": "06_latent_attention/cache_precision/*",
    "collections of contexts (notebook 09)": "09_cascade/collection/*",
    "weights read as another method (notebook 10)": "10_key_attention_and_projected_values/readings/*",
    "needles and contexts cut short (notebook 11)": "11_recall/*/*",
    "attention of layers taken away (notebook 11)": "11_recall/copying_layers/*/*",
    f"retrofits of `{BASELINE}`": f"{RETROFITS_FOLDER}/{BASELINE}*",
    "retrofits of SmolLM2": f"{RETROFITS_FOLDER}/SmolLM2*",
}


def hours() -> pd.DataFrame:
    """Write what everything cost that is published: trials by their text, then all other work."""
    trials = hours_by_text(_records()).rename(columns={"text": "what"})
    other = pd.DataFrame([_hours_of(what, pattern) for what, pattern in OTHER_WORK.items()])
    spent = pd.concat([trials.assign(what="trials: " + trials["what"]), other[other["trials"] > 0]])
    return pd.DataFrame(
        {
            "what": [*spent["what"], "all"],
            "how many": [*spent["trials"], spent["trials"].sum()],
            "minutes of one (median)": [*map(_short, spent["minutes"]), ""],
            "hours": [_short(value) for value in [*spent["hours"], spent["hours"].sum()]],
        }
    )


def _short(value: float) -> str:
    """Write a time with one digit, or with two where that is nothing."""
    return f"{value:.1f}" if value >= 0.1 else f"{value:.2f}"


def hours_by_trial() -> pd.DataFrame:
    """Write the minutes of every single trial, an arm a row and a text a column."""
    minutes = minutes_by_trial(_records())
    table = minutes.map(lambda values: ", ".join(f"{value:.0f}" for value in values))
    table.insert(0, "arm", [f"`{arm}`" for arm in table.index])
    return table.assign(hours=[f"{sum(map(sum, values)) / 60:.1f}" for values in minutes.to_numpy()])


def _records() -> pd.DataFrame:
    records = load_records(reference_folder())
    if records.empty:
        raise UnpublishedError("newllm sweep sotu")
    return records


def _hours_of(what: str, pattern: str) -> dict[str, object]:
    """Add up what runs took that have no record."""
    files = sorted(reference_folder().glob(f"{pattern}/{FINISHED_FILE}"))
    seconds = pd.Series([read_json(path)["seconds"] for path in files], dtype=float)
    return {
        "what": what,
        "trials": len(seconds),
        "minutes": seconds.median() / 60,
        "hours": seconds.sum() / SECONDS_PER_HOUR,
    }


def budgets() -> pd.DataFrame:
    """Write how small a difference a number of seeds tells apart."""
    table = told_apart(published_sweep("sotu"), BASELINE)
    if table.empty:
        raise UnpublishedError("newllm sweep sotu", " with a second seed of two arms")
    return pd.DataFrame(
        {
            "seeds of each arm": table["seeds"],
            "hours by the clock, both arms": [f"{hours:.1f}" for hours in table["hours"]],
            "half of the 95 % interval of their difference (nats/token)": [f"{reach:.4f}" for reach in table["reach"]],
        }
    )
