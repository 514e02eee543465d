"""Studies within a comparison: arms that differ from one base arm in one thing, and what that thing does."""

from typing import Any

import numpy as np
import pandas as pd

from newllm.analysis.summary import summarize_arms
from newllm.analysis.trained_alike import rows_apart
from newllm.config.experiment import StudyParameters
from newllm.config.values import write_value
from newllm.evaluation.seed_intervals import seed_intervals
from newllm.experiments.arms import Arm
from newllm.experiments.scoring import trained_here

STREAM_COLUMNS = ("stream_difference", "stream_difference_low", "stream_difference_high")


def one_change_each(records: pd.DataFrame, parameters: StudyParameters) -> pd.DataFrame:
    """Compare each arm of the base arm's model with the base arm.

    Parameters
    ----------
    records
        Rows of `newllm.experiments.comparison.compare`, the base arm's among them.
    parameters
        Name the base arm, and give the arms the settings that they do not give themselves.

    Returns
    -------
    pandas.DataFrame
        One row an arm that differs from the base, arms that change the same settings one after the other: ``study``
        (what is changed), ``change`` (from what to what); what `newllm.analysis.summary.summarize_arms` says of the
        arm, with the difference from the base arm (negative: better than it); and ``stream_difference`` in nats per
        token with ``stream_difference_low`` and ``_high`` over the seeds, by `newllm.evaluation.seed_intervals` of all
        these arms, NaN for models that are not scored on one continuous stream.
    """
    base = base_arm(parameters)
    named = set(records["arm"])
    records = rows_apart(records, base.name)
    summary = summarize_arms(records, baseline=base.name)
    rows: list[dict[str, Any]] = []
    # What was trained with another budget than the base arm is no change of it alone.
    trained = trained_here(records[records["arm"].isin(named)])
    for name in trained.loc[trained["method"] == base.method, "arm"].unique():
        arm = Arm.parse(name)
        if arm == base:
            continue
        changes = changed_settings(base, arm, parameters)
        row = {
            "study": " and ".join(changes),
            "change": ", ".join(
                f"{key} {write_value(old)} → {write_value(new)}" for key, (old, new) in changes.items()
            ),
            "arm": name,
        }
        rows.append(row)
    apart = {row["arm"]: _stream_differences(records, row["arm"], base.name) for row in rows}
    intervals = seed_intervals({name: values for name, values in apart.items() if values})
    for row in rows:
        row |= intervals[row["arm"]].columns(STREAM_COLUMNS[0]) if row["arm"] in intervals else {}
    studies = list(dict.fromkeys(row["study"] for row in rows))
    ordered = sorted(rows, key=lambda row: studies.index(row["study"]))
    return pd.DataFrame(ordered, columns=["study", "change", "arm", *STREAM_COLUMNS]).merge(summary, on="arm")


def base_arm(parameters: StudyParameters) -> Arm:
    """Return the arm that the others differ from, by the name that its records have."""
    return Arm.parse(parameters.base_arm).as_trained(parameters)


def changed_settings(base: Arm, arm: Arm, parameters: StudyParameters) -> dict[str, tuple[Any, Any]]:
    """Return the settings in which two arms of a model differ, by name: the value in ``base`` and in ``arm``."""
    before, after = (each.configure(parameters) for each in (base, arm))
    names = dict.fromkeys(key for each in (arm, base) for key, _ in each.overrides)
    values = {name: (getattr(before, name), getattr(after, name)) for name in names}
    values["projection"] = (base.projection, arm.projection)
    values["lent embedding"] = (base.lent_embedding, arm.lent_embedding)
    values["frozen embedding"] = (base.frozen_embedding, arm.frozen_embedding)
    return {name: (old, new) for name, (old, new) in values.items() if old != new}


def _stream_differences(records: pd.DataFrame, arm: str, base: str) -> list[float]:
    """Difference of losses on the continuous stream for each seed that both arms have; none where none are known."""
    if "stream_perplexity" not in records:
        return []
    table = records.pivot_table("stream_perplexity", index="seed", columns="arm")
    if not {arm, base} <= set(table.columns):
        return []
    shared = table[[arm, base]].dropna()
    return list(np.log(shared[arm]) - np.log(shared[base]))
