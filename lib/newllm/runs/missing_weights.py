"""Finished trials without their weights, as most published ones are, and the command that trains them."""

import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from newllm.config.errors import ParameterError
from newllm.config.methods import method_names, method_of
from newllm.config.profiles import load_parameters
from newllm.config.values import write_value
from newllm.files import FINISHED_FILE, SAVED_MODEL, reference_folder
from newllm.runs.folder import among_outputs
from newllm.runs.record import RECORD_FILE, Record, read_record


def why_without_weights(folder: Path) -> str | None:
    """Say that a folder is a finished trial without weights, and how to get them; None where it is no such trial.

    Parameters
    ----------
    folder
        A folder without a model.
    """
    if not (folder / FINISHED_FILE).is_file() or not (folder / RECORD_FILE).is_file():
        return None
    try:
        record = read_record(folder)
        # Trained models that were only scored have no weights of their own.
        command = None if method_of(record.arm, method_names()) is None else _training(record)
    except (OSError, ValueError):
        return None
    if command is None:
        return None
    trials = sorted(among_outputs(path.parent) for path in reference_folder().rglob(SAVED_MODEL) if path.is_dir())
    published = f"; the published trials with weights are {' and '.join(map(str, trials))}" if trials else ""
    return f"{folder} is a finished trial whose weights are not published: `{command}` trains it{published}."


def _training(record: Record) -> str | None:
    """Return the command that trains a trial anew; None where its profile is no longer there."""
    given = {"arms": [record.arm], "seeds": [record.seed]}
    try:
        usual = load_parameters(record.notebook, record.profile, given).identity()
    except ParameterError:
        return None
    changed = {name: value for name, value in record.parameters.items() if name in usual and value != usual[name]}
    return training_command(record.notebook, record.profile, given | changed)


def training_command(notebook: str, profile: str, given: Mapping[str, Any]) -> str:
    """Return the command that trains arms anew, in a form that a shell reads.

    Parameters
    ----------
    notebook, profile
        What it runs.
    given
        Values of parameters by name, which replace those of the profile.
    """
    assignments = " ".join(f"-p {shlex.quote(f'{name}={write_value(value)}')}" for name, value in given.items())
    # What was finished before, here or among what is published, would be taken over without weights.
    return f"newllm run {notebook[:2]} --profile {profile} {assignments} --rerun"
