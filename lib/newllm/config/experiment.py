"""The parameters of notebooks that train and compare arms, and what of them decides a result."""

from pathlib import Path
from typing import Any, ClassVar, Self

from pydantic import Field, model_validator

from newllm.config.benchmarks import Benchmark
from newllm.config.contents import digest_name, digest_of_place
from newllm.config.groups import (
    ComparisonParameters,
    EvaluationParameters,
    ModelParameters,
    ProjectionDataParameters,
    ProjectionParameters,
    RunParameters,
    StreamParameters,
    TrainingParameters,
)
from newllm.files import PROJECTION_DESCRIPTION, DamagedFileError, read_json

PROJECTION_CHECKPOINT = "projection_checkpoint"
BENCHMARKS = "benchmarks"
EMBEDDING_SOURCE = "embedding_source"


def _weights_of(checkpoint: Path | None) -> str:
    """Return the digest of a checkpoint's weights; its place where there is none, which is refused before any work."""
    try:
        return str(read_json(Path(checkpoint or "") / PROJECTION_DESCRIPTION)["weights"])
    except (FileNotFoundError, NotADirectoryError, DamagedFileError, KeyError):
        return str(checkpoint)


class ExperimentParameters(
    ProjectionDataParameters,
    ModelParameters,
    StreamParameters,
    EvaluationParameters,
    ComparisonParameters,
    RunParameters,
):
    """What every notebook that trains and compares arms has."""

    @model_validator(mode="after")
    def _limit_bands(self) -> Self:
        # The default serves windows of every length.
        if self.position_bands != self._default("position_bands") and max(self.position_bands) >= self.seq_length:
            raise ValueError(
                f"position_bands is {list(self.position_bands)}, but each must lie within a window, below seq_length "
                f"({self.seq_length})"
            )
        return self

    def deciding(self) -> dict[str, Any]:
        """Return the parameters that decide the result; a checkpoint and benchmarks by what they hold alone."""
        identity = super().deciding()
        if identity.pop(BENCHMARKS) is not None:
            identity[BENCHMARKS] = [benchmark.identity() for benchmark in self.asked_benchmarks()]
        if identity.pop(PROJECTION_CHECKPOINT) is not None:
            identity[PROJECTION_CHECKPOINT] = _weights_of(self.projection_checkpoint)
        return identity

    def asked_benchmarks(self) -> list[Benchmark]:
        """Return what trained models are asked beside their scores."""
        return [Benchmark.parse(text) for text in self.benchmarks or ()]

    def trial_identity(self, arm: str, seed: int, *, trains_projection: bool, reads_stream: bool) -> dict[str, Any]:
        """Return, as plain JSON values, what decides the result of one arm with one seed, in whichever notebook.

        Parameters
        ----------
        arm
            The arm's full name.
        seed
            The trial's seed.
        trains_projection
            Whether the arm has recurrences that projection training trains; its settings matter to no other.
        reads_stream
            Whether the arm's model is trained on one continuous stream; its settings matter to no other.
        """
        names = self.reaching(trains_projection=trains_projection, reads_stream=reads_stream)
        shared = {name: value for name, value in self.deciding().items() if name in names}
        # What the files of the text hold is in the fingerprint of the data.
        if EMBEDDING_SOURCE in names and self.embedding_source is not None:
            digest = digest_of_place(self.embedding_source)
            shared |= {} if digest is None else {digest_name(EMBEDDING_SOURCE): digest}
        return shared | {"arms": [arm], "seeds": [seed]}

    @staticmethod
    def reaching(*, trains_projection: bool, reads_stream: bool) -> set[str]:
        """Return the names of the parameters that reach such an arm; `trial_identity` says what the two mean."""
        names = set(ExperimentParameters.model_fields) - {"pretrained", BENCHMARKS}
        projection, training = set(ProjectionParameters.model_fields), set(TrainingParameters.model_fields)
        if not trains_projection:
            names -= (projection - {"proj_dim"}) | {PROJECTION_CHECKPOINT}
        if not reads_stream:
            names -= set(StreamParameters.model_fields) - projection - training
        return names


class StudyParameters(ExperimentParameters):
    """What the notebooks have in which arms differ from one base arm, each in one thing."""

    base_method: ClassVar[str]

    base_arm: str = Field("", description="the one of the arms that the others differ from; None: the first that fits")

    @model_validator(mode="after")
    def _choose_base_arm(self) -> Self:
        if not self.base_arm:
            fitting = (arm for arm in self.arms if arm.startswith(self.base_method))
            object.__setattr__(self, "base_arm", next(fitting, self.arms[0]))
        if self.base_arm not in self.arms:
            raise ValueError(f"base_arm is {self.base_arm!r}, but it must be one of arms ({', '.join(self.arms)})")
        return self
