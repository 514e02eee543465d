"""All result records under a folder as one table."""

import logging
from pathlib import Path
from typing import Any

import pandas

from newllm.runs.contents import is_hidden
from newllm.runs.record import RECORD_FILE, Record
from newllm.runs.sealed_record import RecordError, read_sealed_record

logger = logging.getLogger(__name__)

# What is added to a row by who reads and groups records.
ADDED_COLUMNS = ("folder", "row", "places", "settings", "budget", "encoding")


def load_records(folder: Path | str) -> pandas.DataFrame:
    """Read every result record under a folder.

    Returns
    -------
    pandas.DataFrame
        One row a record, sorted by notebook, profile, arm and seed: what was run, each metric under its name,
        ``kv_bytes_per_token``, ``kv_bytes``, ``kv_formula_bytes``, ``kv_tokens``, ``certificate`` (largest change),
        the provenance, and ``folder``. A record that cannot be read is left out with a warning.
    """
    records, refused = read_records(folder)
    for path, reason in refused.items():
        logger.warning("%s is left out: %s", path, reason)
    return records


def read_records(folder: Path | str) -> tuple[pandas.DataFrame, dict[Path, str]]:
    """Read every result record under a folder, and say of each file that is none why it is none.

    Returns
    -------
    pandas.DataFrame
        As `load_records` gives it.
    dict
        The reason for each file that cannot be read as a record.
    """
    folder = Path(folder)
    rows, refused = [], {}
    for path in sorted(folder.rglob(RECORD_FILE)):
        if is_hidden(path, folder):
            continue
        try:
            record = read_sealed_record(path.parent)
        except RecordError as error:
            refused[path] = error.reason
            continue
        own_columns = _row(record.model_copy(update={"metrics": {}}))
        taken = sorted(record.metrics.keys() & {*own_columns, *ADDED_COLUMNS})
        if taken:
            refused[path] = f"a metric has the name of another column: {', '.join(taken)}"
            continue
        rows.append({**_row(record), "folder": path.parent})
    order = ["notebook", "profile", "arm", "seed"]
    frame = pandas.DataFrame(rows).sort_values(order, ignore_index=True) if rows else pandas.DataFrame(columns=order)
    return frame, refused


def _row(record: Record) -> dict[str, Any]:
    return {
        **record.model_dump(include={"notebook", "profile", "arm", "method", "size", "seed", "parameter_count"}),
        **record.metrics,
        "kv_bytes_per_token": record.cache.bytes_per_token,
        "kv_bytes": record.cache.measured_bytes,
        "kv_formula_bytes": record.cache.formula_bytes,
        "kv_tokens": record.cache.tokens,
        "certificate": record.certificate.max_change,
        "duration_seconds": record.duration_seconds,
        "peak_memory_mib": None if record.peak_memory is None else record.peak_memory / 2**20,
        "parameters": record.parameters,
        **record.provenance.model_dump(),
    }
