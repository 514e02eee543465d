"""What an arm was trained after: the training of another model belongs to its budget, so like stands beside like."""

from collections.abc import Mapping
from typing import Any

import pandas as pd

from newllm.experiments.arms import Arm, begins_lent
from newllm.experiments.scoring import is_loaded, is_pretrained
from newllm.models.registry import find

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
    # Of a checkpoint it says itself what it was.
    return LENT if given.get("lent_embedding", False) or begins_lent(given.get("arms", ())) else ""


def embedding_source_in(record: Mapping[Any, Any] | pd.Series) -> str | None:
    """Return whose embedding was taken from elsewhere, as the setting of the arm or else the parameter names it.

    Parameters
    ----------
    record
        As for `lender_in`.

    Returns
    -------
    str or None
        None for a baseline on the same data, and for what takes no embedding.
    """
    if is_pretrained(record["arm"]):
        return None
    given = record.get("parameters", {})
    # A table may have named the arm anew, and a checkpoint is a folder: parameters, or the method, name the model.
    trained = [name for name in given.get("arms", [record["arm"].partition(" (")[0]]) if not is_loaded(name)]
    arm = Arm.parse(trained[0] if len(trained) == 1 else record.get("method", record["arm"]))
    if "embedding_source" not in find(arm.method).settings:
        return None
    source = dict(arm.overrides).get("embedding_source", given.get("embedding_source"))
    return None if source is None else str(source)
