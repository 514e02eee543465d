"""A Hugging Face Trainer whose checkpoints hold what resuming needs, and nothing that has to be unpickled."""

import json
import shutil
from pathlib import Path
from typing import Any, cast

import torch
from safetensors.torch import load_file, load_model, save_file, save_model
from torch import nn
from torch.optim import Optimizer
from transformers import Trainer, TrainerControl, TrainerState, TrainingArguments
from transformers.trainer import TRAINER_STATE_NAME
from transformers.trainer_callback import TrainerCallback
from transformers.trainer_utils import PREFIX_CHECKPOINT_DIR

WEIGHTS = "model.safetensors"


OPTIMIZER = "optimizer.safetensors"


RANDOM_STATE = "random_state.safetensors"


def checkpoint_step(checkpoint: Path) -> int:
    """Optimiser steps made when ``checkpoint`` (a folder ``checkpoint-<step>``) was written."""
    return int(checkpoint.name.rpartition("-")[2])


def all_checkpoints(folder: Path) -> list[Path]:
    """Checkpoint folders below ``folder``, the earliest first."""
    return sorted(folder.glob(f"{PREFIX_CHECKPOINT_DIR}-*"), key=checkpoint_step)


def last_complete_checkpoint(folder: Path) -> Path | None:
    """Find the newest checkpoint that was written to its end, and remove what a kill left half-written.

    The Trainer writes its state file last, so a checkpoint is complete where that file parses.

    Parameters
    ----------
    folder
        The output folder of the Trainer; it need not exist.

    Returns
    -------
    Path or None
        The checkpoint folder, or None where there is nothing to resume.
    """
    for checkpoint in reversed(all_checkpoints(folder)):
        try:
            json.loads((checkpoint / TRAINER_STATE_NAME).read_text(encoding="utf-8"))
        except (FileNotFoundError, ValueError):
            shutil.rmtree(checkpoint)
        else:
            return checkpoint
    return None


class CheckpointCallback(TrainerCallback):
    """Keep two checkpoints at most, small and movable.

    The newest one is what a resumption needs, the best one lends its weights in the end; the optimiser state of the
    latter is dropped. (The Trainer's own ``save_total_limit`` deletes the newest before the run is over.) The best
    checkpoint is found by its step, not by the absolute path that the Trainer stores: a run folder may be moved
    between a kill and its resumption.
    """

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Point the resumed state at the best checkpoint, wherever the run folder is now."""
        if state.best_global_step:
            state.best_model_checkpoint = str(
                Path(args.output_dir or "") / f"{PREFIX_CHECKPOINT_DIR}-{state.best_global_step}"
            )

    def on_save(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """Delete what neither a resumption nor the end of the run will read."""
        for checkpoint in all_checkpoints(Path(args.output_dir or ""))[:-1]:
            if checkpoint_step(checkpoint) == state.best_global_step:
                (checkpoint / OPTIMIZER).unlink(missing_ok=True)
            else:
                shutil.rmtree(checkpoint)


class SafeTrainer(Trainer):
    """Trainer that writes safetensors and JSON only, and loads strictly.

    The stock Trainer pickles optimiser, random state and arguments, and loads weights by name without minding the
    names that it does not find. Here every parameter must be in the file. The learning rate is constant, so there is
    no scheduler to save. Numpy's and Python's random generators play no part in training and are left out.
    """

    def _save(self, output_dir: str | None = None, state_dict: dict[str, Any] | None = None) -> None:
        folder = Path(output_dir or self.args.output_dir or "")
        folder.mkdir(parents=True, exist_ok=True)
        save_model(self.accelerator.unwrap_model(self.model), str(folder / WEIGHTS))

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: nn.Module | None = None) -> None:
        load_model(cast(nn.Module, model or self.model), Path(resume_from_checkpoint) / WEIGHTS, strict=True)

    def _load_best_model(self) -> None:
        self._load_from_checkpoint(str(self.state.best_model_checkpoint))

    def _save_optimizer_and_scheduler(self, output_dir: str) -> None:
        state = cast(Optimizer, self.optimizer).state_dict()["state"]
        tensors = {f"{index}.{name}": value for index, slots in state.items() for name, value in slots.items()}
        save_file(tensors, Path(output_dir) / OPTIMIZER)

    def _load_optimizer_and_scheduler(self, checkpoint: str | None) -> None:
        if checkpoint is None:
            return
        state: dict[int, dict[str, torch.Tensor]] = {}
        for key, value in load_file(Path(checkpoint) / OPTIMIZER).items():
            index, name = key.split(".")
            state.setdefault(int(index), {})[name] = value
        optimizer = cast(Optimizer, self.optimizer)
        optimizer.load_state_dict({"state": state, "param_groups": optimizer.state_dict()["param_groups"]})

    def _save_rng_state(self, output_dir: str) -> None:
        states = {"cpu": torch.get_rng_state()}
        if self.args.device.type == "cuda":
            states["cuda"] = torch.cuda.get_rng_state(self.args.device)
        save_file(states, Path(output_dir) / RANDOM_STATE)

    def _load_rng_state(self, checkpoint: str | None) -> None:
        if checkpoint is None:
            return
        states = load_file(Path(checkpoint) / RANDOM_STATE)
        torch.set_rng_state(states["cpu"])
        if self.args.device.type == "cuda" and "cuda" in states:
            torch.cuda.set_rng_state(states["cuda"], self.args.device)

    def floating_point_ops(self, inputs: dict[str, torch.Tensor | Any]) -> int:
        """Nobody reads this count, and taking it walks through every parameter at every step."""
        return 0
