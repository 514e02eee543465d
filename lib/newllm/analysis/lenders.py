"""What an arm was trained after: the training of another model belongs to its budget, so like stands beside like."""

from collections.abc import Mapping
from typing import Any

import pandas as pd

from newllm.experiments.arms import Arm
from newllm.experiments.scoring import is_loaded, is_pretrained

STREAM, LENT = "stream", "lent embedding"


def lender_in(record: Mapping[Any, Any] | pd.Series) -> str:
    """Return how a trained model comes before that of a record.

    Parameters
    ----------
    record
        A row of `newllm.runs.records_table.load_records`: its ``arm``, which a table may have named anew, its
        ``method`` and its ``parameters``.

    Returns
    -------
    str
        `STREAM` where contexts of one continuous stream are read, over an embedding that is lent and at rates of its
        own; `LENT` where the arm's embedding began as that of a baseline; nothing for what begins with nothing.
    """
    if is_pretrained(record["arm"]):
        return ""
    if Arm.parse(record.get("method", record["arm"])).reads_stream:
        return STREAM
    given = record.get("parameters", {})
    names = [name for name in given.get("arms", ()) if not is_loaded(name)]
    # Of a checkpoint it says itself what it was.
    lent = given.get("lent_embedding", False) or any(Arm.parse(name).lent_embedding for name in names)
    return LENT if lent else ""
