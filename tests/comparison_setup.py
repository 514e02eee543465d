"""Settings and paths of the comparison that the tests of trials, recipes, scores and results share."""

from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM

from newllm.config.notebooks import MainTraining
from newllm.experiments.arms import Arm
from newllm.experiments.trial import Trial

ARMS = ("pythia", "narrow", "dproj-oacd", "dproj-random", "dproj-end-to-end", "dproj-oacd-frozen-embedding")
CPU = torch.device("cpu")


def write_texts(folder: Path) -> None:
    """Write sixty short texts, of few words."""
    subjects = ("The river", "A small town", "Our neighbour", "The old teacher", "My sister", "The night train")
    verbs = ("crosses", "remembers", "watches", "follows", "forgets", "describes")
    for number in range(60):
        sentences = [
            f"{subjects[(number * 7 + k) % 6]} {verbs[(number + k * k) % 6]} the road of {number * k}."
            for k in range(12)
        ]
        (folder / f"{number}.txt").write_text(" ".join(sentences))


def settings(text_folder: Path, **changes: Any) -> MainTraining:
    """Settings of a comparison of seconds on those texts."""
    values: dict[str, Any] = {
        "profile": "test",
        "source": "text",
        "text_files": [str(text_folder / "*.txt")],
        "tokenizer": "bpe:320",
        "size": "tiny",
        "samples": 24,
        "seq_length": 16,
        "val_samples": 6,
        "test_samples": 6,
        "projection_samples": 20,
        "max_iterations": 6,
        "stream_max_iterations": 4,
        "epochs": 2,
        "lr": 1e-3,
        "arms": ARMS,
        "seeds": [1],
        "device": "cpu",
    }
    return MainTraining(**values | changes)


def trial_of(arm: str, parameters: MainTraining, folder: Path, data: str = "digest") -> Trial:
    """Return the trial of an arm, with the one seed of these settings."""
    return Trial(Arm.parse(arm), parameters.seeds[0], parameters, folder, data)


def saved(folder: Path, arm: str) -> Any:
    """Load what the trial of an arm has saved."""
    return AutoModelForCausalLM.from_pretrained(folder / f"{arm}-seed1" / "model")
