"""A Hugging Face Trainer whose checkpoints are verified, hold what resuming needs, and nothing to be unpickled."""

import logging
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import torch
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR
from torch.utils.data import DataLoader, Dataset, Sampler
from transformers import Trainer, TrainerControl, TrainerState, TrainingArguments
from transformers.trainer_callback import TrainerCallback
from transformers.trainer_utils import PREFIX_CHECKPOINT_DIR

from newllm.files import DamagedFileError, digest_of_file, first_damaged, read_json, write_json
from newllm.tensor_files import load_optimizer_tensors, load_tensors, optimizer_tensors, save_tensors, tensors_of

logger = logging.getLogger(__name__)

WEIGHTS = "model.safetensors"
OPTIMIZER = "optimizer.safetensors"
RANDOM_STATE = "random_state.safetensors"

# Written last: a checkpoint without it was not written to its end.
MANIFEST = "manifest.json"

# The newest checkpoint is what a resumption needs; the one before it is what is left where the newest is damaged.
RESUMABLE = 2


def checkpoint_step(checkpoint: Path) -> int:
    """Optimiser steps made when ``checkpoint`` (a folder ``checkpoint-<step>``) was written."""
    return int(checkpoint.name.rpartition("-")[2])


def all_checkpoints(folder: Path) -> list[Path]:
    """Checkpoint folders below ``folder``, the earliest first."""
    return sorted(folder.glob(f"{PREFIX_CHECKPOINT_DIR}-*"), key=checkpoint_step)


def remove_checkpoint(checkpoint: Path) -> None:
    """Delete a checkpoint so that a kill on the way leaves an incomplete one, not a damaged one."""
    (checkpoint / MANIFEST).unlink(missing_ok=True)
    shutil.rmtree(checkpoint)


def last_good_checkpoint(folder: Path, settings: str) -> Path | None:
    """Find the newest checkpoint from which training can go on, and remove the later ones.

    It is whole, belongs to these settings, and so is the checkpoint that was the best by then, whose weights may be
    wanted in the end. A damaged one is named in a warning.

    Parameters
    ----------
    folder
        The output folder of the Trainer; it need not exist.
    settings
        Digest of all that decides the numbers of the training.

    Returns
    -------
    Path or None
        The checkpoint folder, or None where there is nothing to resume.
    """
    for checkpoint in reversed(all_checkpoints(folder)):
        try:
            manifest = _verified(checkpoint, settings)
            if OPTIMIZER in manifest["files"]:
                _verified(_at_step(folder, manifest["best_step"]), settings)
                return checkpoint
        except FileNotFoundError:
            logger.info("%s was not written to its end and is removed.", checkpoint)
        except DamagedFileError as error:
            logger.warning("%s: training goes on from the last good checkpoint before it, if there is one.", error)
        remove_checkpoint(checkpoint)
    return None


def _at_step(folder: Path, step: int) -> Path:
    return folder / f"{PREFIX_CHECKPOINT_DIR}-{step}"


def _verified(checkpoint: Path, settings: str) -> dict[str, Any]:
    """Return the manifest of a checkpoint of which every file is as it was written."""
    manifest = read_json(checkpoint / MANIFEST)
    if manifest["settings"] != settings:
        raise DamagedFileError(f"{checkpoint} belongs to a training with other settings")
    damaged = first_damaged(checkpoint, manifest["files"])
    if damaged is not None:
        raise DamagedFileError(f"{damaged} is damaged or missing")
    return manifest


def _readable_manifest(checkpoint: Path) -> dict[str, Any] | None:
    """Return the manifest of a checkpoint; None where it is damaged, as one is that nothing can go on from."""
    try:
        manifest: dict[str, Any] = read_json(checkpoint / MANIFEST)
    except (FileNotFoundError, DamagedFileError):
        return None
    return manifest


class CheckpointCallback(TrainerCallback):
    """Keep few checkpoints, verified and movable: the last two, and of the best ones by then the weights.

    (The Trainer's own ``save_total_limit`` deletes the newest before the run is over.) The best checkpoint is found by
    its step, not by the absolute path that the Trainer stores: a run folder may be moved between a kill and its
    resumption.

    Parameters
    ----------
    settings
        Digest of all that decides the numbers of the training.
    """

    def __init__(self, settings: str) -> None:
        self.settings = settings

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Point the resumed state at the best checkpoint, wherever the run folder is now."""
        if state.best_global_step:
            state.best_model_checkpoint = str(_at_step(Path(args.output_dir or ""), state.best_global_step))

    def on_save(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """Complete the checkpoint, and delete what neither a resumption nor the end of the run will read."""
        if not state.is_world_process_zero:
            return
        folder = Path(args.output_dir or "")
        files = {path.name: digest_of_file(path) for path in _at_step(folder, state.global_step).iterdir()}
        best = state.best_global_step or state.global_step
        self._complete(_at_step(folder, state.global_step), best, files)
        checkpoints = all_checkpoints(folder)
        manifests = {checkpoint: _readable_manifest(checkpoint) for checkpoint in checkpoints}
        best_ones = {found["best_step"] for checkpoint in checkpoints[-RESUMABLE:] if (found := manifests[checkpoint])}
        for checkpoint in checkpoints[:-RESUMABLE]:
            manifest = manifests[checkpoint]
            if manifest is None or checkpoint_step(checkpoint) not in best_ones:
                remove_checkpoint(checkpoint)
                continue
            if manifest["files"].pop(OPTIMIZER, None) is not None:
                self._complete(checkpoint, manifest["best_step"], manifest["files"])
            (checkpoint / OPTIMIZER).unlink(missing_ok=True)

    def _complete(self, checkpoint: Path, best_step: int, files: dict[str, str]) -> None:
        write_json(checkpoint / MANIFEST, {"settings": self.settings, "best_step": best_step, "files": files})


class SafeTrainer(Trainer):
    """Trainer that writes safetensors and JSON only, and loads strictly.

    The stock Trainer pickles optimiser, random state and arguments, and loads weights by name without minding the
    names that it does not find. Here every parameter must be in the file. The learning rate follows from the number of
    the step, so there is no scheduler to save. Numpy's and Python's random generators play no part in training and are
    left out.

    Of several processes, which all have the same state, the first one writes. They share a batch; the last one of a
    pass may have fewer windows than they could share equally: accelerate fills it up with windows of its beginning,
    which do not count here.

    Attributes
    ----------
    micro_batch_size
        Windows of this process whose gradients are taken at once; they add up to those of the batch. None: all.
    """

    micro_batch_size: int | None = None
    # The window of the batch that the windows in hand begin with, and how many the batch has in this process.
    _place: tuple[int, int] = (0, 0)

    def get_eval_dataloader(self, eval_dataset: Any = None) -> DataLoader[Any]:
        """Held-out batches of all processes together, as in training; the stock loop weights by each one's share."""
        return self._get_dataloader(
            dataset=cast(Dataset[Any], self.eval_dataset),
            description="Evaluation",
            batch_size=self.args.eval_batch_size * self.accelerator.num_processes,
            sampler_fn=cast(Callable[[Dataset[Any]], Sampler[Any]], self._get_eval_sampler),
        )

    def training_step(self, model: nn.Module, inputs: dict[str, Any], *args: Any, **kwargs: Any) -> Tensor:
        """Take the gradients of a batch, of a few windows after the others where so many are not taken at once."""
        given = len(inputs["input_ids"])
        size = min(self.micro_batch_size or given, given)
        losses = []
        for first in range(0, given, size):
            self._place = (first, given)
            part = {name: entry[first : first + size] for name, entry in inputs.items()}
            losses.append(super().training_step(model, part, *args, **kwargs))
        return losses[0] if len(losses) == 1 else torch.stack(losses).sum()

    def compute_loss(self, model: nn.Module, inputs: dict[str, Any], *args: Any, **kwargs: Any) -> Any:
        """Mean over the windows of the whole batch, once gradients are added up and averaged over the processes."""
        here = len(inputs["input_ids"])
        first, given = self._place if model.training else (0, here)
        rows, share = self._windows_of(first, here, given)
        if rows == here and share == 1:
            return super().compute_loss(model, inputs, *args, **kwargs)
        # A process that has no window left computes one that counts nothing: the others wait for its gradients.
        found = super().compute_loss(
            model, {name: entry[: max(rows, 1)] for name, entry in inputs.items()}, *args, **kwargs
        )
        if not model.training:
            return found
        loss, *others = found if isinstance(found, tuple) else (found,)
        return (loss * share, *others) if others else loss * share

    def _windows_of(self, first: int, here: int, given: int) -> tuple[int, float]:
        """Return how many of the windows in hand count, and the weight of their mean in the loss of the batch.

        Parameters
        ----------
        first, here
            Which windows these are of those that the batch has in this process, and how many.
        given
            How many those are; the same number in every process.
        """
        state, processes = self.accelerator.gradient_state, self.accelerator.num_processes
        left = state.remainder if state.end_of_dataloader else 0
        if processes == 1 or left <= 0:
            return here, here / given
        of_process = min(max(left - self.accelerator.process_index * given, 0), given)
        rows = min(max(of_process - first, 0), here)
        return rows, rows * processes / left

    def _save(self, output_dir: str | None = None, state_dict: dict[str, Any] | None = None) -> None:
        if not self.args.should_save:
            return
        folder = Path(output_dir or self.args.output_dir or "")
        folder.mkdir(parents=True, exist_ok=True)
        save_tensors(folder / WEIGHTS, tensors_of(self.accelerator.unwrap_model(self.model)))

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: nn.Module | None = None) -> None:
        load_tensors(cast(nn.Module, model or self.model), load_file(Path(resume_from_checkpoint) / WEIGHTS))

    def _load_best_model(self) -> None:
        self._load_from_checkpoint(str(self.state.best_model_checkpoint))

    def _save_optimizer_and_scheduler(self, output_dir: str) -> None:
        if self.args.should_save:
            save_tensors(Path(output_dir) / OPTIMIZER, optimizer_tensors(cast(Optimizer, self.optimizer)))

    def _load_optimizer_and_scheduler(self, checkpoint: str | None) -> None:
        if checkpoint is None:
            return
        optimizer, scheduler = cast(Optimizer, self.optimizer), cast(LambdaLR, self.lr_scheduler)
        load_optimizer_tensors(optimizer, load_file(Path(checkpoint) / OPTIMIZER))
        step = scheduler.last_epoch = checkpoint_step(Path(checkpoint))
        rates = zip(scheduler.base_lrs, scheduler.lr_lambdas, strict=True)
        for group, (base, share) in zip(optimizer.param_groups, rates, strict=True):
            group["lr"] = base * share(step)

    def _save_rng_state(self, output_dir: str) -> None:
        if not self.args.should_save:
            return
        states = {"cpu": torch.get_rng_state()}
        if self.args.device.type == "cuda":
            states["cuda"] = torch.cuda.get_rng_state(self.args.device)
        save_tensors(Path(output_dir) / RANDOM_STATE, states)

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
