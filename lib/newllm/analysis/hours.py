"""What the trials of a comparison cost: the time that each took by the clock, and all of them together."""

import pandas as pd

SECONDS_PER_HOUR = 3600


def hours_by_arm(records: pd.DataFrame) -> pd.DataFrame:
    """Add up what trials took, the longest first.

    Parameters
    ----------
    records
        Rows of `newllm.runs.records_table.load_records`, of trials with ``duration_seconds``.

    Returns
    -------
    pandas.DataFrame
        One row for each ``arm`` and ``text`` (its source, windows and their length, in words), with ``trials``,
        ``minutes`` of a trial (median) and ``hours`` of all of them: by the clock, on a machine that may have had other
        work; a trial that was killed and resumed counts the training that it recorded and what its last process
        spent, and what a trial borrows, such as the embedding of another arm, counts there.
    """
    texts = [f"{row['source']}, {row['samples']} windows of {row['seq_length']}" for row in records["parameters"]]
    seconds = records.assign(text=texts).groupby(["arm", "text"], sort=False)["duration_seconds"]
    table = pd.DataFrame(
        {"trials": seconds.size(), "minutes": seconds.median() / 60, "hours": seconds.sum() / SECONDS_PER_HOUR}
    )
    return table.sort_values("hours", ascending=False, kind="stable").reset_index()
