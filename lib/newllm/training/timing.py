"""How long main training is expected to take, by a few of its steps."""

import math
import statistics
import time
from collections.abc import Callable

import torch
from transformers import PreTrainedModel

from newllm.config.groups import TrainingParameters
from newllm.runtime import move
from newllm.training.main import TrainingData, collate
from newllm.training.muon import optimizer_of

# The first one is slower than all that follow.
TIMED_STEPS = 4

# A checkpoint holds the weights and two moments of each; it is written, and read again for its digest.
CHECKPOINT_TENSORS = 3
CHECKPOINT_BYTES_A_SECOND = 200e6


def estimate_seconds(
    model: PreTrainedModel, data: TrainingData, parameters: TrainingParameters, *, device: torch.device
) -> float:
    """Estimate how long training lasts if no pass is saved by early stopping, held-out losses and checkpoints counted.

    Parameters
    ----------
    model
        A model such as the one that is going to be trained, frozen like it. It takes a few steps: build one for it.
    data
        Training and held-out windows.
    parameters
        Epochs, batch size, precision, and held-out losses a pass.
    device
        Where training will run.

    Returns
    -------
    float
        Seconds.
    """
    steps = math.ceil(len(data.train) / parameters.batch_size)  # type: ignore[arg-type]
    validation_steps = math.ceil(len(data.validation) / parameters.batch_size)  # type: ignore[arg-type]
    rows = range(min(parameters.batch_size, len(data.train)))  # type: ignore[arg-type]
    size = parameters.micro_batch_size or len(rows)
    batches = [
        {name: value.to(device) for name, value in collate([data.train[row] for row in part]).items()}
        for part in (rows[first : first + size] for first in range(0, len(rows), size))
    ]
    move(model, device)
    if parameters.gradient_checkpointing:
        model.activation_checkpointing_enable()
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = optimizer_of(model, parameters) or torch.optim.AdamW(trained)
    for group in optimizer.param_groups:
        group["lr"] = 0.0

    def take_step() -> None:
        for batch in batches:
            model(**batch).loss.backward()
        torch.nn.utils.clip_grad_norm_(trained, parameters.clip)
        optimizer.step()
        optimizer.zero_grad()

    def validate() -> None:
        with torch.no_grad():
            for batch in batches:
                model(**batch)

    with torch.random.fork_rng(), torch.autocast(device.type, torch.bfloat16, parameters.precision == "bfloat16"):
        model.train()
        of_training = _seconds_of(take_step, device)
        model.eval()
        of_validation = _seconds_of(validate, device)
    checkpoint = (
        CHECKPOINT_TENSORS * sum(value.numel() * value.itemsize for value in trained) / CHECKPOINT_BYTES_A_SECOND
    )
    evaluations = parameters.evaluations * (validation_steps * of_validation + checkpoint)
    return parameters.epochs * (steps * of_training + evaluations)


def _seconds_of(work: Callable[[], None], device: torch.device) -> float:
    """Return the median time of what comes after the first run."""
    seconds = []
    for _ in range(TIMED_STEPS):
        start = time.perf_counter()
        work()
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        seconds.append(time.perf_counter() - start)
    return statistics.median(seconds[1:])
