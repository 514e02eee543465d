"""Sweeps and their files, for the tests of what they may say and of what they run."""

from pathlib import Path

import yaml

from newllm.experiments.sweeps import Sweep

BASE = {"question": "Which?", "notebook": "02_main_training", "profile": "smoke"}


def sweep(grid, **changes) -> Sweep:
    return Sweep.model_validate({**BASE, "grid": grid, **changes})


def written(folder: Path, grid, name: str = "mine", **changes) -> Path:
    path = folder / f"{name}.yaml"
    path.write_text(yaml.safe_dump({**BASE, "grid": grid, **changes}))
    return path
