"""Profiles: YAML and given values in, one checked frozen object out."""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from pydantic import (
    ValidationError,
)

from newllm.config.errors import ParameterError, explain, nearest, nearest_parameter
from newllm.config.groups import RunParameters
from newllm.config.notebooks import NOTEBOOKS
from newllm.config.values import ValueFormatError, read_file
from newllm.files import project_root

# The profile whose results are published, which everything begins with, and that of checks that take seconds.
SHOWN, CHECKS = "cpu", "smoke"


def sweeps_folder() -> Path:
    """Return the folder under ``params`` that is no profile's: the grids of ``newllm sweep``."""
    return project_root() / "params" / "sweeps"


def profiles() -> list[str]:
    """Return the names of the profiles: the folders under ``params``, but that of the sweeps."""
    folders = (folder for folder in (project_root() / "params").iterdir() if folder.is_dir())
    return sorted(folder.name for folder in folders if folder != sweeps_folder())


def available_sweeps() -> list[str]:
    """Return the names of the files in ``params/sweeps``."""
    return sorted(path.stem for path in sweeps_folder().glob("*.yaml"))


def sweep_path(name: str) -> Path:
    """Return the file of a sweep, given by its path or by the name of a file in ``params/sweeps``.

    Raises
    ------
    ParameterError
        Where there is none.
    """
    path = Path(name)
    if path.suffix in {".yaml", ".yml"}:
        if not path.is_file():
            raise ParameterError(
                f"{name} is not a file; it must be a YAML file or one of {', '.join(available_sweeps())}."
            )
        if not path.stem.strip("."):
            raise ParameterError(f"{name} has no name that its folder of results could have: rename the file.")
        return path
    if name not in available_sweeps():
        raise ParameterError(f"{name} is not a file of params/sweeps{nearest(name, available_sweeps())}")
    return sweeps_folder() / f"{name}.yaml"


def profile_path(notebook: str, profile: str) -> Path:
    """Return the YAML file that holds a notebook's parameters in a profile.

    Raises
    ------
    ParameterError
        If there is no such notebook, profile or file.
    """
    if notebook not in NOTEBOOKS:
        raise ParameterError(f"{notebook} is not a notebook with parameters{nearest(notebook, list(NOTEBOOKS))}")
    if profile not in profiles():
        raise ParameterError(f"profile is {profile!r}, but it must be one of {', '.join(profiles())}.")
    path = project_root() / "params" / profile / f"{notebook}.yaml"
    if not path.is_file():
        raise ParameterError(
            f"profile is {profile!r}, but there is no params/{profile}/{notebook}.yaml: that profile is for "
            f"{', '.join(notebooks_of(profile))}."
        )
    return path


def notebooks_of(profile: str) -> list[str]:
    """Return the names of the notebooks that a profile has parameters for, in their order."""
    return [name for name in sorted(NOTEBOOKS) if (project_root() / "params" / profile / f"{name}.yaml").is_file()]


def load_parameters(notebook: str, profile: str, given: Mapping[str, Any]) -> RunParameters:
    """Merge a profile with what was given and check the result.

    Parameters
    ----------
    notebook
        A key of `NOTEBOOKS`.
    profile
        A folder of ``params``.
    given
        Values that replace the profile's; ``None`` leaves what the profile says.

    Returns
    -------
    RunParameters
        An object of the notebook's own class.

    Raises
    ------
    ParameterError
        One sentence for every key that is unknown, missing or has an impossible value.
    """
    path = profile_path(notebook, profile)
    try:
        stored = read_file(path)
    except ValueFormatError as error:
        raise ParameterError(str(error)) from None
    if stored.get("profile") != profile:
        raise ParameterError(f"{path} must start with `profile: {profile}`.")
    if given.get("profile", profile) != profile:
        raise ParameterError(
            f"profile is {given['profile']!r} and {profile!r}, but it must be one: newllm run chooses it by --profile."
        )
    replaced = {key: value for key, value in given.items() if value is not None}
    kind = NOTEBOOKS[notebook]
    refuse_unknown(given, [notebook])
    try:
        return kind.model_validate({**stored, **replaced, "profile": profile})
    except ValidationError as error:
        where = f"params/{profile}/{path.name}"
        raise ParameterError(explain(error, kind, notebook, replaced, where, option="-p")) from None


def refuse_unknown(keys: Iterable[str], notebooks: Sequence[str]) -> None:
    """Refuse names that are a parameter of none of these notebooks.

    Raises
    ------
    ParameterError
        One sentence a name, with the nearest known one.
    """
    kinds = [NOTEBOOKS[notebook] for notebook in notebooks]
    owner = " or ".join(notebooks)
    unknown = [key for key in keys if not any(key in kind.model_fields for kind in kinds)]
    if unknown:
        raise ParameterError(
            "\n".join(f"{key} is not a parameter of {owner}{nearest_parameter(key, kinds)}" for key in unknown)
        )
