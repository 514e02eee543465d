"""What trials cost: the time that each took by the clock, and all of them together.

By the clock on a machine that may have had other work. A trial that was killed and resumed counts the training that it
recorded and what its last process spent, and what a trial borrows, such as the embedding of another arm, counts there.
"""

import pandas as pd

from newllm.analysis.wording import text_in_words

SECONDS_PER_HOUR = 3600


def hours_by_text(records: pd.DataFrame) -> pd.DataFrame:
    """Add up what trials took on each text, the longest first.

    Parameters
    ----------
    records
        Rows of `newllm.runs.records_table.load_records`, of trials with ``duration_seconds``.

    Returns
    -------
    pandas.DataFrame
        One row for each ``text`` (its source, windows and their length, in words), with ``trials``, ``minutes`` of a
        trial (median) and ``hours`` of all of them.
    """
    seconds = records.assign(text=_texts(records)).groupby("text", sort=False)["duration_seconds"]
    table = pd.DataFrame(
        {"trials": seconds.size(), "minutes": seconds.median() / 60, "hours": seconds.sum() / SECONDS_PER_HOUR}
    )
    return table.sort_values("hours", ascending=False, kind="stable").reset_index()


def minutes_by_trial(records: pd.DataFrame) -> pd.DataFrame:
    """List what every trial took.

    Parameters
    ----------
    records
        As for `hours_by_text`.

    Returns
    -------
    pandas.DataFrame
        One row an arm, by name, and one column a text, in the order of `hours_by_text`:
        the minutes of each trial, by seed; an empty list where an arm did not read a text.
    """
    rows = records.assign(text=_texts(records)).sort_values("seed", kind="stable")
    listed = {key: list(group / 60) for key, group in rows.groupby(["arm", "text"])["duration_seconds"]}
    arms = sorted(set(rows["arm"]))
    texts = hours_by_text(records)["text"]
    return pd.DataFrame({text: [listed.get((arm, text), []) for arm in arms] for text in texts}, index=arms)


def _texts(records: pd.DataFrame) -> list[str]:
    return [text_in_words(parameters) for parameters in records["parameters"]]
