"""How many windows a step of main training has, and how many steps a pass: known without a model."""

import math

from newllm.config.experiment import ExperimentParameters
from newllm.config.groups import DataParameters, FactParameters, RunParameters, TrainingParameters
from newllm.experiments.arms import Arm
from newllm.models.config import BorrowedEmbeddingConfig


def known_windows(parameters: RunParameters) -> int | None:
    """Return the number of training windows that parameters say; None where the text says it, facts in it included."""
    if not isinstance(parameters, DataParameters) or isinstance(parameters, FactParameters):
        return None
    return None if parameters.samples == "all" else parameters.samples


def contexts_change(arm: Arm, parameters: ExperimentParameters) -> bool:
    """Tell whether main training of an arm that reads a stream changes the contexts that it reads."""
    config = arm.configure(parameters)
    assert isinstance(config, BorrowedEmbeddingConfig)
    return arm.projection == "end-to-end" or not (arm.frozen_embedding or config.freeze_embedding)


def windows_a_stretch(parameters: ExperimentParameters) -> int:
    """Return how many windows have as many tokens as a step on the stream."""
    return max(1, round(parameters.stream_tokens / parameters.seq_length))


def steps_a_pass(parameters: TrainingParameters, windows: int) -> int:
    """Return the steps of a pass over so many windows, for what is trained on windows."""
    return math.ceil(windows / parameters.batch_size)


def steps_of_arm(arm: Arm, parameters: ExperimentParameters, windows: int) -> int:
    """Return the steps of a pass over so many windows, for an arm that may be trained on them as one stream."""
    if not arm.reads_stream:
        return steps_a_pass(parameters, windows)
    if contexts_change(arm, parameters):
        return math.ceil(windows / windows_a_stretch(parameters))
    return math.ceil(windows * parameters.seq_length / parameters.stream_tokens)
