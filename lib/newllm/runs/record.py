"""Result records: everything a table or a reader needs to trust a number."""

from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, field_validator

from newllm.runs.provenance import Provenance

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
    peak_memory: int | None = Field(
        None,
        gt=0,
        description="most bytes held at once in training, by the process that finished it: PyTorch's on a CUDA device, "
        "the process's elsewhere; None where nothing was trained, or not measured",
    )
    provenance: Provenance = Field(default_factory=Provenance.collect)


def read_record(folder: Path) -> Record:
    """Read the result that a finished run left in its folder."""
    return Record.model_validate_json((folder / RECORD_FILE).read_bytes())
