"""Main training: next-token cross-entropy on the Hugging Face Trainer, resumable to the last bit."""

import json
import logging
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import torch
from torch.utils.data import Dataset
from transformers import PreTrainedModel, PrinterCallback, TrainingArguments
from transformers.trainer import TRAINER_STATE_NAME
from transformers.trainer_callback import TrainerCallback

from newllm.config.groups import MEMORY_PARAMETERS, TrainingParameters
from newllm.files import (
    DamagedFileError,
    different_keys,
    digest_of_json,
    read_json,
    read_plain_json,
    remove_leftovers,
    write_json,
)
from newllm.processes import first_alone, is_first, process_count, wait_for_others
from newllm.progress import TRAINING, stage
from newllm.runtime import move
from newllm.tensor_files import digest_of_tensors, load_tensors, read_tensors, tensors_of, write_tensors
from newllm.training.callbacks import (
    EvaluateWithinPass,
    Progress,
    StopEarly,
    history_of,
    losses_of_passes,
    should_stop,
)
from newllm.training.checkpoints import (
    WEIGHTS,
    CheckpointCallback,
    SafeTrainer,
    all_checkpoints,
    last_good_checkpoint,
    remove_checkpoint,
)
from newllm.training.muon import optimizer_of

logger = logging.getLogger(__name__)
SETTINGS = "settings.json"
START = "start.safetensors"
RESULT = "training.json"

# Transformers' names; each begins with the warm-up.
SCHEDULES = {"constant": "constant_with_warmup", "linear": "linear", "cosine": "cosine"}

# accelerate shuffles epoch e with the seed data_seed + e: neighbouring seeds must not share their epochs' orders.
SEED_SPACING = 1000


class TrainingData(Protocol):
    """What main training reads of the text: windows to train on, and held-out windows."""

    @property
    def train(self) -> Dataset[dict[str, torch.Tensor]]:
        """Training windows."""

    @property
    def validation(self) -> Dataset[dict[str, torch.Tensor]]:
        """Held-out windows."""

    @property
    def identity(self) -> dict[str, str]:
        """What the windows depend on."""


@dataclass(frozen=True)
class TrainingResult:
    """What main training did.

    Attributes
    ----------
    history
        One row for each time that the held-out loss was taken, as `newllm.training.callbacks.history_of` gives them.
    best_epoch
        Passes over the training windows after which the model had the weights that it has now.
    """

    history: list[dict[str, float]]
    best_epoch: float

    @property
    def tokens_per_second(self) -> float:
        """Predicted tokens per second over all epochs."""
        seconds = sum(row["seconds"] for row in self.history)
        return sum(row["tokens_per_second"] * row["seconds"] for row in self.history) / seconds


def collate(windows: list[dict[str, torch.Tensor]]) -> dict[str, torch.Tensor]:
    """Stack windows to a batch: each entry (T,) becomes (B, T)."""
    return {name: torch.stack([window[name] for window in windows]) for name in windows[0]}


def train(
    model: PreTrainedModel,
    data: TrainingData,
    parameters: TrainingParameters,
    folder: Path,
    *,
    seed: int,
    device: torch.device,
    callbacks: list[TrainerCallback] | None = None,
) -> TrainingResult:
    """Train ``model`` in place and leave it with the weights that were best on the held-out windows.

    AdamW (Loshchilov and Hutter 2019), with Muon for the matrices of the blocks where ``matrix_lr`` is a rate, learning
    rates that rise over the warm-up and then follow the schedule, clipped gradients, early stopping. ``labels`` go to
    the model, which shifts them; the loss is the plain mean over the predicted tokens. Parameters without
    ``requires_grad`` are not optimised. The batch order depends on the seed alone, so that models are compared on the
    same sequence of batches.

    Called again on a folder where an earlier call was killed, it goes on from the last checkpoint and ends with
    the numbers that the earlier call would have had, on a CPU to the bit where the number of threads is the same;
    called on a finished one, it restores the best weights. Every file is verified before it is used; one that is
    damaged is named in a warning, and training goes on from the last good checkpoint before it, or from its start.
    While training, the folder holds the last two checkpoints and the weights of the best one; afterwards
    ``model.safetensors`` (the best weights), ``training.json`` and ``settings.json`` only.

    ``micro_batch_size`` and ``gradient_checkpointing`` change what memory a step takes, and its numbers by rounding
    alone; a resumed run may have others.

    Several processes (`newllm.processes.joined`) share each batch equally and have the losses of one, up to rounding;
    the first one writes, and another number of them may go on later.

    Parameters
    ----------
    model
        The model to train. A fresh run keeps its weights as they are; a resumed one replaces them.
    data
        Training windows and held-out windows.
    parameters
        Epochs, learning rate and the other settings of main training.
    folder
        Where checkpoints and the result go; one folder a run.
    seed
        Decides the batch order and the random numbers drawn in training.
    device
        Where to train.
    callbacks
        Further Trainer callbacks.

    Returns
    -------
    TrainingResult
        History and best epoch.

    Raises
    ------
    ValueError
        The folder holds a run with other settings, or the number of processes does not divide the batch.
    FloatingPointError
        The held-out loss is no longer a finite number.
    """
    move(model, device)
    settings = _settings(model, data, parameters, seed)
    identity = digest_of_json(settings)
    with first_alone():
        folder.mkdir(parents=True, exist_ok=True)
        remove_leftovers(folder)
        start = _refuse_other_settings(folder, settings, digest_of_tensors(tensors_of(model)))
        finished = _finished(model, folder, identity)
        checkpoint = None if finished else last_good_checkpoint(folder, identity)
        if finished:
            _remove_what_resumes(folder)
        elif checkpoint is None:
            # A call that was stopped within its first epoch has changed the caller's model already: go back.
            _keep_or_restore_start(model, folder / START, start)
    if finished is not None:
        return finished

    earlier = _earlier_history(checkpoint)
    done = earlier[-1]["epoch"] if earlier else 0.0
    # Nothing is left to train where the run was killed between its last checkpoint and its end.
    epochs = int(done) if should_stop(losses_of_passes(earlier), parameters.patience) else parameters.epochs

    steps_a_pass = _steps_a_pass(data, parameters)
    use_cache = model.config.use_cache
    with stage(TRAINING, epochs * steps_a_pass, done=round(done * steps_a_pass)) as told:
        progress = Progress(told, _predicted_tokens(data.train), steps_a_pass)
        kept = [progress, CheckpointCallback(identity), *(callbacks or [])]
        trainer = _trainer(model, data, parameters, folder, seed, device, kept)
        trainer.args.num_train_epochs = epochs
        try:
            trainer.train(
                resume_from_checkpoint=str(checkpoint) if checkpoint else None,
                ignore_keys_for_eval=["logits", "past_key_values"],
            )
        finally:
            # Whoever uses the model next shall not find the wrapper of mixed precision, nor its cache switched off.
            trainer.accelerator.unwrap_model(model, keep_fp32_wrapper=False)
            if parameters.gradient_checkpointing:
                model.activation_checkpointing_disable()
            model.config.use_cache = use_cache

    history = history_of(trainer.state.log_history)
    result = TrainingResult(history, min(history, key=lambda row: row["validation_loss"])["epoch"])
    wait_for_others()  # they may still be reading the best weights
    if is_first():
        _finish(model, folder, result, identity)
    return result


def _earlier_history(checkpoint: Path | None) -> list[dict[str, float]]:
    """History of the training before ``checkpoint``."""
    return [] if checkpoint is None else history_of(read_plain_json(checkpoint / TRAINER_STATE_NAME)["log_history"])


def _settings(model: PreTrainedModel, data: TrainingData, parameters: TrainingParameters, seed: int) -> dict[str, Any]:
    """Everything that decides the numbers of a run, for the check that a resumed run is the same run."""
    config = model.config.to_dict()
    settings = {
        "seed": seed,
        "training": parameters.model_dump(include=set(TrainingParameters.model_fields) - {*MEMORY_PARAMETERS}),
        "data": data.identity,
        "windows": [len(data.train), len(data.validation)],  # type: ignore[arg-type]
        "model": {name: config[name] for name in sorted(config) if name != "transformers_version"},
        "frozen": sorted(name for name, value in model.named_parameters() if not value.requires_grad),
    }
    plain: dict[str, Any] = json.loads(json.dumps(settings, default=str))
    return plain


def _refuse_other_settings(folder: Path, settings: dict[str, Any], start: str) -> str:
    """Stop where ``folder`` belongs to a run with other settings; note them and the start's digest in a new folder.

    Returns
    -------
    str
        Digest of the weights that the run started from.
    """
    file = folder / SETTINGS
    try:
        theirs = read_json(file)
    except FileNotFoundError:
        theirs = {}
    except DamagedFileError as error:
        # Whatever else lies there carries the digest of its settings and is used only where they are these.
        logger.warning("%s: it is written again.", error)
        theirs = {}
    if not theirs:
        write_json(file, {"settings": settings, "start": start})
        return start
    if different := sorted(different_keys(theirs["settings"], settings)):
        raise ValueError(
            f"{folder} holds a run with another {' and '.join(different)}: choose another output folder, or delete "
            "this one to train anew."
        )
    return str(theirs["start"])


def _keep_or_restore_start(model: PreTrainedModel, file: Path, start: str) -> None:
    """Keep the weights that training starts from, or go back to them."""
    try:
        load_tensors(model, read_tensors(file, start)[0])
    except (FileNotFoundError, DamagedFileError) as error:
        if isinstance(error, DamagedFileError):
            logger.warning("%s: training starts from the model as it is.", error)
        if digest_of_tensors(tensors_of(model)) != start:
            raise ValueError(
                f"{file} is damaged or missing, and the model is not the one that training started from: build it "
                f"anew, or delete {file.parent}."
            ) from error
        write_tensors(file, tensors_of(model))


def _finished(model: PreTrainedModel, folder: Path, settings: str) -> TrainingResult | None:
    """Restore the best weights of a training that is finished; None where it is not, or its files are damaged."""
    try:
        stored = read_json(folder / RESULT)
        if stored["settings"] != settings:
            raise DamagedFileError(f"{folder / RESULT} belongs to a training with other settings")
        load_tensors(model, read_tensors(folder / WEIGHTS, stored["weights"])[0])
    except FileNotFoundError:
        return None
    except DamagedFileError as error:
        logger.warning("%s: training goes on from its last good checkpoint, or from its start.", error)
        return None
    logger.info("%s is finished: its best weights are restored.", folder)
    return TrainingResult(stored["history"], stored["best_epoch"])


def _trainer(
    model: PreTrainedModel,
    data: TrainingData,
    parameters: TrainingParameters,
    folder: Path,
    seed: int,
    device: torch.device,
    callbacks: list[TrainerCallback],
) -> SafeTrainer:
    trainer = SafeTrainer(
        model=model,
        args=_arguments(parameters, folder, seed, device, _steps_a_pass(data, parameters)),
        data_collator=collate,
        optimizers=(optimizer_of(model, parameters), None),
        train_dataset=data.train,
        eval_dataset=data.validation,
        callbacks=[
            EvaluateWithinPass(parameters.evaluations, _steps_a_pass(data, parameters)),
            StopEarly(parameters.patience),
            *callbacks,
        ],
    )
    trainer.micro_batch_size = parameters.micro_batch_size
    # Stated for every model alike: the loss is the model's own token mean, with no count of items handed down.
    trainer.model_accepts_loss_kwargs = False
    trainer.remove_callback(PrinterCallback)
    return trainer


def _arguments(
    parameters: TrainingParameters, folder: Path, seed: int, device: torch.device, steps_a_pass: int
) -> TrainingArguments:
    """Say to the Trainer what the parameters mean, and how each pass is evaluated, kept and logged."""
    arguments = TrainingArguments(
        output_dir=str(folder),
        num_train_epochs=parameters.epochs,
        per_device_train_batch_size=parameters.batch_size,
        per_device_eval_batch_size=parameters.micro_batch_size or max(1, parameters.batch_size // process_count()),
        activation_checkpointing=parameters.gradient_checkpointing,
        learning_rate=parameters.lr,
        lr_scheduler_type=SCHEDULES[parameters.schedule],
        warmup_steps=math.ceil(parameters.warmup * steps_a_pass * parameters.epochs),
        weight_decay=parameters.weight_decay,
        adam_beta1=parameters.adam_beta1,
        adam_beta2=parameters.adam_beta2,
        max_grad_norm=parameters.clip,
        bf16=parameters.precision == "bfloat16",
        tf32=parameters.precision == "tf32",
        seed=seed,
        data_seed=seed * SEED_SPACING,
        use_cpu=device.type == "cpu",
        eval_strategy="epoch",
        save_strategy="epoch",
        logging_strategy="epoch",
        # A loss that is no number must be seen, not replaced by the mean of those before it.
        logging_nan_inf_filter=False,
        load_best_model_at_end=True,
        metric_for_best_model="loss",
        greater_is_better=False,
        prediction_loss_only=True,
        remove_unused_columns=False,
        label_names=["labels"],
        dataloader_pin_memory=device.type == "cuda",
        # A batch is that of all processes together, whatever their number.
        accelerator_config={"split_batches": True, "non_blocking": device.type == "cuda"},
        ddp_find_unused_parameters=False,
        disable_tqdm=True,
        report_to="none",
    )
    # Without a launcher the Trainer would split batches over all GPUs by DataParallel: one process, one device.
    arguments._n_gpu = min(arguments.n_gpu, 1)
    return arguments


def _steps_a_pass(data: TrainingData, parameters: TrainingParameters) -> int:
    return math.ceil(len(data.train) / parameters.batch_size)  # type: ignore[arg-type]


def _predicted_tokens(windows: Dataset[dict[str, torch.Tensor]]) -> int:
    """Tokens predicted in one pass: every window but for its first token."""
    return len(windows) * (windows[0]["input_ids"].shape[-1] - 1)  # type: ignore[arg-type]


def _finish(model: PreTrainedModel, folder: Path, result: TrainingResult, settings: str) -> None:
    """Leave the best weights and the result, and drop what only a resumption needed."""
    tensors = tensors_of(model)
    write_tensors(folder / WEIGHTS, tensors)
    write_json(
        folder / RESULT,
        {
            "history": result.history,
            "best_epoch": result.best_epoch,
            "weights": digest_of_tensors(tensors),
            "settings": settings,
        },
    )
    _remove_what_resumes(folder)


def _remove_what_resumes(folder: Path) -> None:
    (folder / START).unlink(missing_ok=True)
    for checkpoint in all_checkpoints(folder):
        remove_checkpoint(checkpoint)
