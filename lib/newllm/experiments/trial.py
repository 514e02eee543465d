"""A trial of a comparison: one arm with one seed on some data, where its run is, and who lends it an embedding."""

from dataclasses import dataclass, replace
from pathlib import Path

from newllm.config.experiment import ExperimentParameters
from newllm.experiments.arms import Arm
from newllm.models.config import BorrowedEmbeddingConfig, LanguageModelConfig
from newllm.models.registry import BASELINE, configure, find
from newllm.runs.folder import Run


@dataclass(frozen=True)
class Trial:
    """An arm with a seed, on some data, and the folder that holds its run's.

    Attributes
    ----------
    arm, seed, parameters
        What is trained, and how.
    folder
        Holds the folders of the trials.
    data
        Fingerprint of the windows: those with facts among them are other data.
    """

    arm: Arm
    seed: int
    parameters: ExperimentParameters
    folder: Path
    data: str

    def run(self) -> Run:
        """Open the run of the trial; it stays the same when arms or seeds are added to the comparison."""
        identity = self.parameters.trial_identity(
            self.arm.name,
            self.seed,
            trains_projection=self.arm.trains_projection,
            reads_stream=self.arm.reads_stream,
        )
        identity["data"] = self.data
        return Run(self.folder / f"{self.arm.folder_name}-seed{self.seed}", identity)

    def __str__(self) -> str:
        """Return the trial as messages name it."""
        return f"{self.arm.name} with seed {self.seed}"


def lender_of(trial: Trial) -> Trial | None:
    """Return the trial whose embedding this one takes over; None where it takes none, or one from elsewhere.

    It is the baseline of the same width, on the same data and with the same seed.
    """
    config = trial.arm.configure(trial.parameters)
    borrows = isinstance(config, BorrowedEmbeddingConfig) and config.embedding_source is None
    if not borrows and not trial.arm.lent_embedding:
        return None
    assert isinstance(config, LanguageModelConfig)
    width = find(trial.arm.method).model_class.embedding_width(config)
    baseline = Arm.parse(BASELINE)
    if configure(BASELINE, trial.parameters.size).hidden_size != width:
        baseline = replace(baseline, overrides=(("hidden_size", width),))
    return replace(trial, arm=baseline)
