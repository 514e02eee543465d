"""Where the project's files are: the clone itself, run outputs and the data cache."""

import os
from pathlib import Path


def project_root() -> Path:
    """Return the clone this package runs from: the folder that holds ``lib``, ``params`` and ``notebooks``.

    Raises
    ------
    FileNotFoundError
        If the package runs from somewhere else, such as a wheel without the notebooks.
    """
    root = Path(__file__).resolve().parents[2]
    if not (root / "params").is_dir():
        raise FileNotFoundError(
            f"newllm runs from {root}, which is not a clone of the project; clone it and install it with `make lab`."
        )
    return root


def outputs_folder() -> Path:
    """Return the folder that holds the run folders: ``NEWLLM_OUTPUTS``, or ``outputs`` in the clone."""
    return _moved_by("NEWLLM_OUTPUTS", "outputs")


def reference_folder() -> Path:
    """Return the folder that holds the committed results."""
    return project_root() / "outputs" / "reference"


def cache_folder() -> Path:
    """Return the folder that holds prepared data, safe to delete: ``NEWLLM_CACHE``, or ``outputs/cache``."""
    return _moved_by("NEWLLM_CACHE", "outputs/cache")


def _moved_by(variable: str, default: str) -> Path:
    moved = os.environ.get(variable)
    return Path(moved).expanduser().resolve() if moved else project_root() / default
