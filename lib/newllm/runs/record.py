"""Result records: everything a table or a reader needs to trust a number."""

import math
from pathlib import Path
from typing import Annotated, Any, Self

from pydantic import BaseModel, ConfigDict, Field, StrictBool, field_validator, model_validator

from newllm.config.methods import method_names, method_of
from newllm.runs.provenance import Provenance

RECORD_FILE = "record.json"

# Whole numbers that tables have room for.
Amount = Annotated[int, Field(ge=0, lt=2**63)]

# The least and the most that a metric can be; one that is not finite was not measured.
LIMITS = {
    "perplexity": (1.0, math.inf),
    "stream_perplexity": (1.0, math.inf),
    "loss": (0.0, math.inf),
    "bits_per_byte": (0.0, math.inf),
    "accuracy": (0.0, 1.0),
}
# Of a logit that had to stay as it was: a passed certificate allows a billionth of the largest one, for rounding.
LARGEST_CHANGE = 1e-3
# Between the logarithm of a perplexity and its loss, which are written to the last digit: rounding alone.
LARGEST_ROUNDING = 1e-6


class _Part(BaseModel):
    """A piece of a record: strict about names, and readable from an object with these attributes."""

    model_config = ConfigDict(extra="forbid", frozen=True, from_attributes=True)


class CacheSize(_Part):
    """The bytes one sequence keeps, counted in the tensors of a real cache."""

    tokens: Amount = Field(gt=0)
    dtype: str
    measured_bytes: Amount
    formula_bytes: Amount | None = Field(description="None: a model without a formula of ours")
    bytes_per_token: float = Field(ge=0, allow_inf_nan=False)


class CertificateResult(_Part):
    """The outcome of the causality certificate."""

    passed: StrictBool
    max_change: float = Field(ge=0, lt=LARGEST_CHANGE)

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

    notebook: str = Field(pattern=r"^\w[\w.-]*$", description="its results are published in a folder of this name")
    profile: str
    arm: str
    method: str
    size: str
    seed: Amount
    parameters: dict[str, Any] = Field(description="the notebook's parameters, as `RunParameters.identity` gives them")
    parameter_count: Amount = Field(gt=0)
    metrics: dict[str, float | None] = Field(
        description="by name: perplexity, bits_per_byte, accuracy, convergence_rate, effective_rank, ..."
    )
    cache: CacheSize
    certificate: CertificateResult
    continuations: tuple[Continuation, ...]
    duration_seconds: float = Field(ge=0, allow_inf_nan=False)
    peak_memory: Annotated[Amount, Field(gt=0)] | None = Field(
        None,
        description="most bytes held at once in training, by the process that finished it: PyTorch's on a CUDA device, "
        "the process's elsewhere; None where nothing was trained, or not measured",
    )
    provenance: Provenance = Field(default_factory=Provenance.collect)

    @field_validator("metrics")
    @classmethod
    def _must_be_possible(cls, metrics: dict[str, float | None]) -> dict[str, float | None]:
        known = {name: value for name, value in metrics.items() if value is not None and math.isfinite(value)}
        for name, (least, most) in LIMITS.items():
            if name in known and not least <= known[name] <= most:
                raise ValueError(f"{name} is {known[name]:g}, which it cannot be")
        if {"perplexity", "loss"} <= known.keys():
            apart = abs(math.log(known["perplexity"]) - known["loss"])
            if apart > LARGEST_ROUNDING:
                raise ValueError(f"perplexity {known['perplexity']:g} is not that of the loss {known['loss']:g}")
        return metrics

    @model_validator(mode="after")
    def _must_agree_with_parameters(self) -> Self:
        for name in ("size", "profile"):
            said = self.parameters.get(name, getattr(self, name))
            if said != getattr(self, name):
                raise ValueError(f"{name} is {getattr(self, name)}, but its parameters say {said}")
        for name, several in (("arm", "arms"), ("seed", "seeds")):
            said = self.parameters.get(several, [getattr(self, name)])
            if not isinstance(said, list | tuple) or getattr(self, name) not in said:
                raise ValueError(f"{name} is {getattr(self, name)}, but its parameters say {several} {said}")
        # A model that is registered elsewhere is known by this record alone.
        named = method_of(self.arm, (*method_names(), self.method))
        if named is not None and named != self.method:
            raise ValueError(f"method is {self.method}, but its arm is {self.arm}")
        return self


def read_record(folder: Path) -> Record:
    """Read the result that a finished run left in its folder."""
    return Record.model_validate_json((folder / RECORD_FILE).read_bytes())
