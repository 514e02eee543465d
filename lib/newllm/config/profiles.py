"""Profiles: YAML and given values in, one checked frozen object out."""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml
from pydantic import (
    ValidationError,
)

from newllm.config.errors import ParameterError, explain, nearest
from newllm.config.groups import RunParameters
from newllm.config.notebooks import NOTEBOOKS
from newllm.files import project_root


def sweeps_folder() -> Path:
    """Return the folder under ``params`` that is no profile's: the grids of ``newllm sweep``."""
    return project_root() / "params" / "sweeps"


def profiles() -> list[str]:
    """Return the names of the profiles: the folders under ``params``, but that of the sweeps."""
    folders = (folder for folder in (project_root() / "params").iterdir() if folder.is_dir())
    return sorted(folder.name for folder in folders if folder != sweeps_folder())


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
        raise ParameterError(f"profile is {profile!r}, but there is no params/{profile}/{notebook}.yaml.")
    return path


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
        stored = yaml.safe_load(path.read_text(encoding="utf-8"))
    except yaml.YAMLError as error:
        raise ParameterError(f"{path} is not YAML: {error}") from error
    if not isinstance(stored, dict) or stored.get("profile") != profile:
        raise ParameterError(f"{path} must be a list of `key: value` lines that starts with `profile: {profile}`.")
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
    known = list(dict.fromkeys(field for notebook in notebooks for field in NOTEBOOKS[notebook].model_fields))
    unknown = [key for key in keys if key not in known]
    if unknown:
        owner = " or ".join(notebooks)
        raise ParameterError("\n".join(f"{key} is not a parameter of {owner}{nearest(key, known)}" for key in unknown))
