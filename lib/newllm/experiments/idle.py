"""Parameters that do nothing for an arm: refused where they are given, because who gives one expects an effect."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from newllm.config.errors import ParameterError
from newllm.config.experiment import BENCHMARKS, PROJECTION_CHECKPOINT, ExperimentParameters
from newllm.config.groups import ProjectionParameters, RunParameters, TrainingParameters
from newllm.config.profiles import load_parameters
from newllm.experiments.arms import Arm, trained_arms
from newllm.experiments.limits import beyond_end, unusual
from newllm.experiments.steps import contexts_change, known_windows, steps_a_pass, steps_of_arm
from newllm.experiments.trial import Trial, lender_of
from newllm.models.registry import find

COMPARISON = ExperimentParameters.model_fields
# They act beside the arms, or are checked with a sentence of their own.
BESIDE_THE_ARMS = {"pretrained", BENCHMARKS, PROJECTION_CHECKPOINT}
OF_COLLECTION = {"collection_chunk", "collection_tolerance"}
MOST_NAMED = 4


def idle_parameters(arm: Arm, parameters: ExperimentParameters) -> set[str]:
    """Return the parameters that make no difference to an arm.

    Parameters
    ----------
    arm
        An arm of a comparison.
    parameters
        What it is trained with.
    """
    idle = set(COMPARISON) - ExperimentParameters.reaching(
        trains_projection=arm.trains_projection, reads_stream=arm.reads_stream
    )
    if arm.reads_stream:
        replaced = {name.removeprefix("stream_") for name in COMPARISON if name.startswith("stream_")}
        idle |= {"batch_size", *replaced} & set(COMPARISON)
        if contexts_change(arm, parameters):
            # They are collected nowhere.
            idle |= OF_COLLECTION
    if arm.trains_projection and parameters.projection_checkpoint is not None:
        # The recurrences are trained already.
        projection = set(ProjectionParameters.model_fields) - {"proj_dim"}
        idle |= projection | ({f"stream_{name}" for name in projection} & set(COMPARISON))
    # These set the field of the same name in the model's config, where there is one.
    return idle | ({"proj_dim"} - find(arm.method).settings)


def idle_for_all(arms: Sequence[Arm], parameters: ExperimentParameters) -> set[str]:
    """Return the parameters that make no difference to any of these arms, nor to what lends one its embedding.

    Parameters
    ----------
    arms
        Arms that are trained.
    parameters
        What they are trained with.
    """
    every = _with_lenders(arms, parameters)
    own = [idle_parameters(arm, parameters) | {name for name, _ in arm.overrides} for arm in every]
    return set.intersection(*own) - BESIDE_THE_ARMS if own else set()


def _with_lenders(arms: Sequence[Arm], parameters: ExperimentParameters) -> list[Arm]:
    """Return arms, and those that lend them an embedding."""
    seed = parameters.seeds[0] if parameters.seeds else 0
    lenders = [lender_of(Trial(arm, seed, parameters, Path(), "")) for arm in arms]
    return [*arms, *(lender.arm for lender in lenders if lender is not None)]


def beyond_end_of(arms: Sequence[Arm], parameters: ExperimentParameters) -> dict[str, str]:
    """Return, by name, what is wrong with values that no training of these arms, nor of their lenders, comes to.

    Parameters
    ----------
    arms, parameters
        As for `idle_for_all`.
    """
    windows = known_windows(parameters)
    if windows is None or not arms:
        return beyond_end(parameters, None)
    return beyond_end(
        parameters, max(steps_of_arm(arm, parameters, windows) for arm in _with_lenders(arms, parameters))
    )


def changed_values(names: set[str], notebook: str, profile: str, given: Mapping[str, Any]) -> list[str]:
    """Return those of the names that were given another value than the profile's, which papermill passes as given too.

    Parameters
    ----------
    names
        Of parameters.
    notebook, profile
        Whose they are.
    given
        Values by name; None leaves what the profile says.
    """
    asked = [name for name in sorted(names) if given.get(name) is not None]
    if not asked:
        return []
    usual = load_parameters(notebook, profile, {})
    read = {name: getattr(load_parameters(notebook, profile, {name: given[name]}), name) for name in asked}
    return [name for name, value in read.items() if value != getattr(usual, name)]


def given_in_vain(parameters: RunParameters, given: Mapping[str, Any]) -> dict[str, str]:
    """Return, by name, what is wrong with what was given and does nothing: for no arm, or because it never comes to it.

    Parameters
    ----------
    parameters
        Checked.
    given
        What was given beside the profile.
    """
    where = parameters.notebook, parameters.profile
    said: dict[str, str] = {}
    beyond: dict[str, str] = {}
    if isinstance(parameters, ExperimentParameters):
        arms = trained_arms(parameters)
        idle = changed_values(idle_for_all(arms, parameters), *where, given)
        said = {name: said_of(name, [arm.name for arm in arms]) for name in idle}
        beyond = beyond_end_of(arms, parameters)
    elif isinstance(parameters, TrainingParameters):
        windows = known_windows(parameters)
        beyond = beyond_end(parameters, None if windows is None else steps_a_pass(parameters, windows))
    changed = changed_values(set(beyond), *where, given)
    values = {name: getattr(parameters, name) for name in changed}
    return said | {name: beyond[name] for name in unusual(changed, parameters.profile, values)}


def refuse_in_vain(parameters: RunParameters, given: Mapping[str, Any]) -> None:
    """Refuse what was given and does nothing, by a ParameterError that says why."""
    if said := given_in_vain(parameters, given):
        raise ParameterError("\n".join(said.values()))


def said_of(name: str, arms: Sequence[str]) -> str:
    """Say in one sentence that a parameter does nothing for these arms."""
    several = len(arms) > MOST_NAMED
    named = f"any of the {len(arms)} arms" if several else f"{', '.join(arms[:-1])}{' or ' * (len(arms) > 1)}{arms[-1]}"
    return f"{name} is given, but does nothing for {named}: leave it out, or add an arm that uses it."
