"""Sweeps: a file names a base and a grid, and the grid becomes trials, checked before any of them runs.

A trial's folder is ``<outputs>/sweeps/<name>/<profile>-<fingerprint>/<arm>-seed<seed>``; the fingerprint is that of all
parameters but arm and seed. So a grid that has grown finds its finished trials again.
"""

import functools
import itertools
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from types import MappingProxyType
from typing import Annotated, Any, Self

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, field_validator, model_validator

from newllm.config.errors import ParameterError, explain, nearest
from newllm.config.experiment import ExperimentParameters
from newllm.config.groups import DataParameters
from newllm.config.notebooks import NOTEBOOKS
from newllm.config.profiles import load_parameters
from newllm.config.values import ValueFormatError, read_file, write_value
from newllm.experiments.arms import Arm
from newllm.experiments.idle import beyond_end_of, changed_values, idle_for_all, idle_parameters, said_of
from newllm.experiments.limits import unusual
from newllm.experiments.planning import check_text, check_trials
from newllm.files import digest_of_json
from newllm.models.registry import find

ARM, SEED = "arm", "seed"
COMPARISON = ExperimentParameters.model_fields
NOTHING: Mapping[str, Any] = MappingProxyType({})

# What a grid cannot vary and `parameters` cannot hold, and what to do instead.
ELSEWHERE = {
    "arms": "the grid's axis arm gives the arms",
    "seeds": "the grid's axis seed gives the seeds",
    "processes": "--processes gives it",
    "output_folder": "trials go under outputs/sweeps (NEWLLM_OUTPUTS moves it)",
    "rerun": "delete the folder of what shall run again",
    "pretrained": "a sweep trains; newllm run scores pretrained weights",
    "benchmarks": "newllm evaluate asks the models of a sweep",
    "profile": "it stands beside notebook",
}


def _listed(value: Any) -> Any:
    if value is None:
        return []  # an axis with nothing behind it; a null that is meant stands in a list
    return value if isinstance(value, list | tuple) else [value]


Axis = Annotated[tuple[Any, ...], BeforeValidator(_listed)]
Grid = dict[str, Axis]


class Sweep(BaseModel):
    """What a file of ``params/sweeps`` says."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    question: str = Field(min_length=1, description="what the sweep shall answer")
    notebook: str = Field(description="the notebook whose parameters these are, such as 02_main_training")
    profile: str = Field(description="the profile that the parameters start from")
    parameters: dict[str, Any] = Field(default_factory=dict, description="what replaces the profile's, in every trial")
    grid: Annotated[tuple[Grid, ...], BeforeValidator(_listed), Field(min_length=1)] = Field(
        description="values by axis: arm, seed, parameters of the notebook, settings of the arms; or a list of such"
    )

    @field_validator("notebook")
    @classmethod
    def _check_notebook(cls, value: str) -> str:
        # A notebook's own parameters would do nothing in a sweep, such as facts that its trials are to be taught.
        able = [name for name, kind in NOTEBOOKS.items() if set(kind.model_fields) == set(COMPARISON)]
        if value not in able:
            raise ValueError(f"it must be a notebook that compares arms and nothing else{nearest(value, able)}")
        return value

    # A rule of the whole sweep: one of the grid would be told with all values of all axes.
    @model_validator(mode="after")
    def _check_axes(self) -> Self:
        for grid in self.grid:
            missing = [axis for axis in (ARM, SEED) if axis not in grid]
            if missing:
                raise ValueError(f"each grid must have the axes {ARM} and {SEED}; {' and '.join(missing)} is missing")
            for axis, values in grid.items():
                if not values:
                    raise ValueError(_why_empty(axis))
                if said := _what_stands_twice(axis, values):
                    raise ValueError(said)
        return self

    @property
    def axes(self) -> list[str]:
        """The names of all axes, in their order."""
        return list(dict.fromkeys(axis for grid in self.grid for axis in grid))

    def replace(self, given: Mapping[str, Any]) -> Self:
        """Return the sweep with other values: of an axis of the grid, of ``profile``, or of a parameter.

        Several grids stand for arms that need different axes, so that arms choose among them: each grid keeps those of
        its arms that are given.

        Parameters
        ----------
        given
            New values by name; an axis takes a list, or one value.

        Raises
        ------
        ParameterError
            Where there are several grids, and a given arm is in none of them or given twice, or a given axis in none of
            those that are left; or what is no axis takes one value and is given a list.
        """
        self._refuse_lists({**self.parameters, **given})
        axes = {key: _listed(value) for key, value in given.items() if key in self.axes}
        rest = {key: value for key, value in given.items() if key not in axes and key != "profile"}
        grids = self.grid if len(self.grid) == 1 or ARM not in axes else _with_arms(self.grid, axes.pop(ARM))
        for axis in axes:
            if not any(axis in grid for grid in grids):
                raise ParameterError(
                    f"{axis} is given, but it is an axis of other arms than {', '.join(_arms_of(grids))}: leave it "
                    "out, or write a file of your own whose grid has both."
                )
        grid = [grid | {key: value for key, value in axes.items() if key in grid} for grid in grids]
        changed = {"grid": grid, "parameters": self.parameters | rest, "profile": given.get("profile", self.profile)}
        return type(self).model_validate(self.model_dump() | changed)

    def _refuse_lists(self, given: Mapping[str, Any]) -> None:
        """Refuse a list for a parameter that takes one value and is no axis."""
        for key, value in given.items():
            if isinstance(value, list) and key in COMPARISON and key not in {*self.axes, *_taking_lists()}:
                raise ParameterError(
                    f"{key} is {write_value(value)}, but lists are for the axes of this sweep ({', '.join(self.axes)}):"
                    f" give {key} one value, or make it an axis in the grid of a file of your own."
                )


@functools.cache
def _taking_lists() -> set[str]:
    """Return the parameters whose value is a list."""
    described = ExperimentParameters.model_json_schema()["properties"]
    return {
        name
        for name, schema in described.items()
        if "array" in {schema.get("type"), *(choice.get("type") for choice in schema.get("anyOf", ()))}
    }


def _why_empty(axis: str) -> str:
    return f"the axis {axis} has no value: give it one or more, such as {axis}=[...], or leave it as the file says"


def _what_stands_twice(axis: str, values: Sequence[Any]) -> str:
    """Say which value an axis has twice, by its form, as 1 is no 1.0; nothing where it has none."""
    twice = [value for value in values if [*map(repr, values)].count(repr(value)) > 1]
    return f"the axis {axis} has the value {write_value(twice[0])} twice: leave one out" if twice else ""


def _arms_of(grids: Iterable[Grid]) -> list[str]:
    return list(dict.fromkeys(str(arm) for grid in grids for arm in grid[ARM]))


def _with_arms(grids: Sequence[Grid], arms: Sequence[Any]) -> list[Grid]:
    """Return the grids that have some of these arms, with those arms alone."""
    if not arms:
        raise ParameterError(f"{_why_empty(ARM)}.")
    every = _arms_of(grids)
    if said := _what_stands_twice(ARM, arms):
        raise ParameterError(f"{said}.")
    strange = [str(arm) for arm in arms if arm not in every]
    if strange:
        raise ParameterError(
            f"{' and '.join(strange)} is in none of the sweep's {len(grids)} grids, which have "
            f"{', '.join(every)}: add it to the one whose axes it needs, in a file of your own."
        )
    narrowed = [grid | {ARM: tuple(arm for arm in grid[ARM] if arm in arms)} for grid in grids]
    return [grid for grid in narrowed if grid[ARM]]


@dataclass(frozen=True)
class GridPoint:
    """One point of the grid, checked.

    Attributes
    ----------
    arm, seed, parameters
        What is trained, and how; arms and seeds of the parameters are empty.
    axes
        The axes that are parameters; the values on the others are in the arm's name and the seed.
    """

    arm: Arm
    seed: int
    parameters: ExperimentParameters
    axes: tuple[str, ...]

    @property
    def folder_name(self) -> str:
        """Name of the folder for all trials with these parameters."""
        return f"{self.parameters.profile}-{self.parameters.fingerprint()}"


def load_sweep(path: Path, given: Mapping[str, Any]) -> Sweep:
    """Read a sweep and put in what was given.

    Parameters
    ----------
    path
        The YAML file.
    given
        As in `Sweep.replace`.

    Raises
    ------
    ParameterError
        One sentence for every key that is unknown, missing or has an impossible value.
    """
    try:
        return Sweep.model_validate(read_file(path)).replace(given)
    except ValueFormatError as error:
        raise ParameterError(str(error)) from None
    except ValidationError as error:
        raise ParameterError(explain(error, Sweep, "a sweep", given, path.name)) from None


def plan(sweep: Sweep, given: Mapping[str, Any] = NOTHING) -> list[GridPoint]:
    """Expand the grid and check every trial; nothing is read or written but the profile.

    Trials of one seed stand together, in the order of the grids: what is stopped early has whole tables of some seeds.

    Parameters
    ----------
    sweep
        With what was given in its place.
    given
        What was given beside the sweep's file. Where arms were, the file's parameters may be for the others.

    Raises
    ------
    ParameterError, ArmError
        For an axis or a parameter that is unknown, has an impossible value, or does nothing for an arm.
    ValueError
        As `newllm.experiments.planning.check_trials` and `check_text`.
    """
    _refuse_what_belongs_elsewhere(sweep)
    points = [
        _read_point(sweep, dict(zip(grid, values, strict=True)))
        for grid in sweep.grid
        for values in itertools.product(*grid.values())
    ]
    check_trials([(point.parameters, [point.arm]) for point in points])
    planned: dict[tuple[Any, ...], GridPoint] = {}
    for point in points:
        trial = _plan_point(point)
        # Grids may overlap; what they share is run once.
        planned.setdefault((trial.arm, trial.seed, trial.parameters), trial)
    _refuse_twins(planned.values())
    _refuse_in_vain(sweep, list(planned.values()), given)
    texts = {text_of(trial.parameters): trial.parameters for trial in planned.values()}
    for parameters in texts.values():
        check_text(parameters)
    seeds = list(dict.fromkeys(trial.seed for trial in planned.values()))
    return sorted(planned.values(), key=lambda trial: seeds.index(trial.seed))


def _refuse_twins(planned: Iterable[GridPoint]) -> None:
    """Refuse points of the grid that train the same: one of them says what is so anyway, such as proj_dim."""
    names: dict[str, str] = {}
    for trial in planned:
        arm, settings = trial.arm, find(trial.arm.method).settings
        identity = trial.parameters.trial_identity(
            arm.name, trial.seed, trains_projection=arm.trains_projection, reads_stream=arm.reads_stream
        )
        # What sets a field of the model's is seen there.
        shared = {name: value for name, value in identity.items() if name not in settings}
        treated = replace(arm, overrides=()).name
        config = arm.configure(trial.parameters).to_dict()
        key = digest_of_json({**shared, "arms": [treated], "config": config})
        name = ", ".join(
            [str(arm.name), *(f"{axis}={write_value(getattr(trial.parameters, axis))}" for axis in trial.axes)]
        )
        if names.setdefault(key, name) != name:
            raise ParameterError(
                f"the grid has {names[key]} and {name}, which train the same with seed {trial.seed}: leave one out."
            )


def _refuse_in_vain(sweep: Sweep, planned: Sequence[GridPoint], given: Mapping[str, Any]) -> None:
    """Refuse parameters of the file, or given, that no trial uses, or that an axis replaces in every grid."""
    for name in sweep.parameters:
        if all(name in grid for grid in sweep.grid):
            raise ParameterError(f"{name} is among the parameters and an axis of every grid: leave one out.")
    idle = set.intersection(*(idle_for_all([trial.arm], trial.parameters) for trial in planned))
    asked = sorted(idle & set(given))
    if not asked and ARM not in given:
        asked = changed_values(idle, sweep.notebook, sweep.profile, sweep.parameters)
    for name in asked:
        raise ParameterError(said_of(name, list(dict.fromkeys(trial.arm.name for trial in planned))))
    beyond = [beyond_end_of([trial.arm], trial.parameters) for trial in planned]
    shared = set.intersection(*map(set, beyond)) - set(sweep.axes)
    changed = changed_values(shared, sweep.notebook, sweep.profile, given if ARM in given else sweep.parameters)
    values = {name: getattr(planned[0].parameters, name) for name in changed}
    for name in unusual(changed, sweep.profile, values):
        raise ParameterError(beyond[0][name])


def text_of(parameters: DataParameters) -> tuple[Any, ...]:
    """Return the settings of a text and its windows."""
    return tuple(getattr(parameters, field) for field in DataParameters.model_fields)


def _refuse_what_belongs_elsewhere(sweep: Sweep) -> None:
    for key in (*sweep.parameters, *sweep.axes):
        if key in ELSEWHERE:
            raise ParameterError(f"{key} is not for a sweep's parameters or grid: {ELSEWHERE[key]}.")


def _read_point(sweep: Sweep, point: dict[str, Any]) -> GridPoint:
    """Read a point as it is written: the arm by the name that it has there, with its parameters' arms and seeds."""
    changed = {axis: value for axis, value in point.items() if axis in COMPARISON}
    settings = {axis: value for axis, value in point.items() if axis not in {*COMPARISON, ARM, SEED}}
    arm = _with_settings(str(point[ARM]), settings, sweep)
    given = sweep.parameters | changed | {"arms": [arm.name], "seeds": [point[SEED]]}
    parameters = load_parameters(sweep.notebook, sweep.profile, given)
    assert isinstance(parameters, ExperimentParameters)
    return GridPoint(arm, parameters.seeds[0], parameters, tuple(changed))


def _plan_point(point: GridPoint) -> GridPoint:
    """Call the arm of a point by what it trains, and refuse axes that do nothing for it."""
    arm, parameters = point.arm, point.parameters
    fixed = {setting for setting, _ in arm.overrides}
    arm = arm.as_trained(parameters)
    beyond = beyond_end_of([arm], parameters)
    for axis in point.axes:
        if axis in beyond:
            raise ParameterError(beyond[axis])
        if axis in fixed or axis in idle_parameters(arm, parameters):
            reason = "which sets it itself" if axis in fixed else "which does not use it"
            raise ParameterError(
                f"the axis {axis} does nothing for {arm.name}, {reason}: give {arm.name} its own grid."
            )
    return replace(point, arm=arm, parameters=parameters.model_copy(update={"arms": (), "seeds": ()}))


def _with_settings(text: str, settings: Mapping[str, Any], sweep: Sweep) -> Arm:
    """Parse an arm and put the settings of the grid's axes in."""
    arm = Arm.parse(text)
    known = find(arm.method).settings
    for name in settings:
        if name not in known:
            every = [ARM, SEED, *COMPARISON, *sorted(known)]
            raise ParameterError(
                f"the axis {name} is neither a parameter of {sweep.notebook} nor a setting of {arm.method}"
                f"{nearest(name, every)}"
            )
    written = ",".join(f"{name}={write_value(value)}" for name, value in settings.items())
    return Arm.parse(f"{text}{',' if arm.overrides else '@'}{written}") if written else arm
