"""Values beyond their end: what they ask for never comes, and a run of another value would train the same."""

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from newllm.config.experiment import ExperimentParameters
from newllm.config.groups import TrainingParameters
from newllm.config.notebooks import RetrofitNotebook
from newllm.config.profiles import load_parameters, notebooks_of
from newllm.evaluation.recall import PASSAGE_TOKENS
from newllm.evaluation.recall_report import fitting_distances
from newllm.experiments.arms import Arm
from newllm.experiments.retrofits import LLAMA_WINDOW
from newllm.experiments.steps import windows_a_stretch
from newllm.wording import count

# Parameters, and the arms that are trained with them.
Group = tuple[ExperimentParameters, Sequence[Arm]]


def refuse_sizes_without_effect(groups: Sequence[Group]) -> None:
    """Refuse parts of steps that are larger than any step, and distances between passages that no window has room for.

    The defaults of the distances serve windows of every length.

    Parameters
    ----------
    groups
        Of a comparison one, of a sweep many: each value must have an effect in one of those that have it.

    Raises
    ------
    ValueError
        Says which value, and what to do.
    """
    for size in {parameters.micro_batch_size for parameters, _ in groups}:
        refuse_large_part(size, max(_largest_step(*group) for group in groups if group[0].micro_batch_size == size))
    usual = ExperimentParameters.model_fields["repeat_distances"].default
    asked = dict.fromkeys(distance for parameters, _ in groups for distance in parameters.repeat_distances)
    for distance in asked:
        those = [parameters for parameters, _ in groups if distance in parameters.repeat_distances]
        length = max(map(_longest_window, those))
        if distance not in {*fitting_distances(those[0], length), *usual}:
            raise ValueError(
                f"repeat_distances holds {distance}, but a passage of {PASSAGE_TOKENS} tokens, so many others and the "
                f"passage again do not fit into a window of {length}: leave it out, or take a larger seq_length"
            )


def refuse_large_part(size: int | None, step: int) -> None:
    """Refuse a ``micro_batch_size`` that is larger than a step of so many windows, by a ValueError."""
    if size is not None and size > step:
        raise ValueError(f"micro_batch_size is {size}, but a step has {step} windows: give fewer, or leave it out")


def refuse_endless_warmup(parameters: TrainingParameters, steps: int, arm: str = "") -> None:
    """Refuse a warm-up that takes all steps: the learning rate is zero in the first, and never what it is given as.

    Parameters
    ----------
    parameters
        Of main training.
    steps
        Of a pass.
    arm
        What is trained, where there are several.

    Raises
    ------
    ValueError
        Says how many steps there are, and what to do.
    """
    every = steps * parameters.epochs
    # As the Trainer is told.
    if math.ceil(parameters.warmup * every) >= every:
        raise ValueError(
            f"{f'arm {arm!r}: ' * bool(arm)}warmup is {parameters.warmup:g}, but that takes all of training "
            f"({count(every, 'step')}), so that the learning rate never comes to what it is given as: give warmup=0, "
            "or train more steps"
        )


def beyond_end(parameters: TrainingParameters, steps: int | None) -> dict[str, str]:
    """Return, by name, what is wrong with values that no run of these parameters comes to.

    Parameters
    ----------
    parameters
        Of main training.
    steps
        Of a pass, the most of all arms; None where it is not known.
    """
    said = {}
    # Losses of `patience` passes are held against one before them, and behind the last pass nothing is left to stop.
    least = parameters.patience + 2
    if parameters.epochs < least:
        said["patience"] = (
            f"patience is {parameters.patience}, but training of {count(parameters.epochs, 'epoch')} ends before it "
            f"could stop anything: leave it out, or give {least} epochs or more."
        )
    if steps is not None and parameters.evaluations > steps:
        said["evaluations"] = (
            f"evaluations is {parameters.evaluations}, but a pass has {count(steps, 'step')}: give {steps} at most, or "
            "leave it out."
        )
    return said


def unusual(names: Iterable[str], profile: str, values: Mapping[str, Any]) -> list[str]:
    """Return those of these parameters of training whose value is neither the default nor one of the profile's.

    These serve runs of every length, also a trial of one notebook that is trained by another's name.
    """
    loaded = [load_parameters(notebook, profile, {}) for notebook in notebooks_of(profile)]
    training = [each for each in loaded if isinstance(each, TrainingParameters)]
    fields = TrainingParameters.model_fields
    return [
        name
        for name in names
        if values[name] not in {fields[name].default, *(getattr(each, name) for each in training)}
    ]


def _largest_step(parameters: ExperimentParameters, arms: Sequence[Arm]) -> int:
    reads_stream = any(arm.reads_stream for arm in arms)
    return max(parameters.batch_size, windows_a_stretch(parameters) if reads_stream else 0)


def _longest_window(parameters: ExperimentParameters) -> int:
    return max(parameters.seq_length, LLAMA_WINDOW if isinstance(parameters, RetrofitNotebook) else 0)
