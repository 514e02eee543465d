"""Where to compute."""

import torch


def choose_device(name: str) -> torch.device:
    """Return the device of that name; ``auto`` is the first accelerator, or the CPU."""
    if name != "auto":
        return torch.device(name)
    accelerator = torch.accelerator.current_accelerator() if torch.accelerator.is_available() else None
    return accelerator or torch.device("cpu")
