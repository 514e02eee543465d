"""Result records: everything a table or a reader needs to trust a number."""

import logging
from pathlib import Path
from typing import Any

import pandas
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

from newllm.runs.provenance import Provenance

logger = logging.getLogger(__name__)

RECORD_FILE = "record.json"


class _Part(BaseModel):
    """A piece of a record: strict about names, and readable from an object with these attributes."""

    model_config = ConfigDict(extra="forbid", frozen=True, from_attributes=True)


class CacheSize(_Part):
    """The bytes one sequence keeps, counted in the tensors of a real cache."""

    tokens: int = Field(gt=0)
    dtype: str
    measured_bytes: int = Field(ge=0)
    formula_bytes: int | None = Field(ge=0, description="None: a model without a formula of ours")
    bytes_per_token: float = Field(ge=0)


class CertificateResult(_Part):
    """The outcome of the causality certificate."""

    passed: bool
    max_change: float = Field(ge=0)

    @field_validator("passed")
    @classmethod
    def _must_have_passed(cls, passed: bool) -> bool:
        if not passed:
            raise ValueError("a result is recorded only with a passed causality certificate")
        return passed


class Continuation(_Part):
    """What a model says after a fixed prompt."""

    prompt: str
    text: str


class Record(_Part):
    """The result of one arm with one seed: everything a table or a reader needs to trust it."""

    notebook: str
    profile: str
    arm: str
    method: str
    size: str
    seed: int
    parameters: dict[str, Any] = Field(description="the notebook's parameters, as `RunParameters.identity` gives them")
    parameter_count: int = Field(gt=0)
    metrics: dict[str, float | None] = Field(
        description="by name: perplexity, bits_per_byte, accuracy, convergence_rate, effective_rank, ..."
    )
    cache: CacheSize
    certificate: CertificateResult
    continuations: tuple[Continuation, ...]
    duration_seconds: float = Field(ge=0)
    provenance: Provenance = Field(default_factory=Provenance.collect)


def read_record(folder: Path) -> Record:
    """Read the result that a finished run left in its folder."""
    return Record.model_validate_json((folder / RECORD_FILE).read_bytes())


def load_records(folder: Path) -> pandas.DataFrame:
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


def read_records(folder: Path) -> tuple[pandas.DataFrame, dict[Path, str]]:
    """Read every result record under a folder, and say of each file that is none why it is none.

    Returns
    -------
    pandas.DataFrame
        As `load_records` gives it.
    dict
        The reason for each file that cannot be read as a record.
    """
    rows, refused = [], {}
    for path in sorted(folder.rglob(RECORD_FILE)):
        try:
            record = read_record(path.parent)
        except ValidationError as error:
            problem = error.errors()[0]
            where = "".join(f"{part}: " for part in problem["loc"])
            refused[path] = f"not a record of this version: {where}{problem['msg'].removeprefix('Value error, ')}"
        except OSError as error:
            refused[path] = f"it cannot be read: {error.strerror}"
        else:
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
        "parameters": record.parameters,
        **record.provenance.model_dump(),
    }
