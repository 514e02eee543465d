"""What happens between the steps of main training: held-out losses, early stopping, progress and the history."""

import math
import time
from typing import Any

from transformers import TrainerControl, TrainerState, TrainingArguments
from transformers.trainer_callback import TrainerCallback

from newllm.progress import Stage


def should_stop(losses: list[float], patience: int) -> bool:
    """Tell whether the last ``patience`` held-out losses all failed to beat the best one before them.

    A pure function of the losses, so that a resumed run decides as an uninterrupted one.
    """
    return len(losses) > patience and min(losses[-patience:]) >= min(losses[:-patience])


def history_of(log: list[dict[str, float]]) -> list[dict[str, float]]:
    """Gather the Trainer's log entries of each time that the held-out loss was taken into one row.

    Parameters
    ----------
    log
        ``log_history`` of the Trainer's state.

    Returns
    -------
    list of dict
        ``epoch`` (passes over the training windows so far), ``train_loss`` and ``validation_loss`` (nats per token, the
        first as the mean over the steps since the row before), ``learning_rate`` (of the last step),
        ``tokens_per_second`` (predicted tokens, validation left out) and ``seconds`` since the row before.
    """
    steps: dict[float, dict[str, float]] = {}
    for entry in log:
        steps.setdefault(entry["step"], {}).update(entry)
    return [
        {
            "epoch": row["epoch"],
            "train_loss": row["loss"],
            "validation_loss": row["eval_loss"],
            "learning_rate": row["learning_rate"],
            "tokens_per_second": row["tokens_per_second"],
            "seconds": row["seconds"],
        }
        for row in steps.values()
        if "eval_loss" in row
    ]


def losses_of_passes(history: list[dict[str, float]]) -> list[float]:
    """Return the held-out losses at the ends of whole passes, which early stopping judges."""
    return [row["validation_loss"] for row in history if float(row["epoch"]).is_integer()]


class EvaluateWithinPass(TrainerCallback):
    """Take the held-out loss, and write a checkpoint, also within a pass over the training windows.

    Parameters
    ----------
    evaluations
        How many in each pass, evenly spaced; the Trainer itself takes the last of them.
    steps_a_pass
        Optimiser steps in a pass.
    """

    def __init__(self, evaluations: int, steps_a_pass: int) -> None:
        self.steps_a_pass = steps_a_pass
        self.steps = {round(number * steps_a_pass / evaluations) for number in range(1, evaluations)} - {0}

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """Ask for both at the steps that are due."""
        if state.global_step % self.steps_a_pass in self.steps:
            control.should_log = control.should_evaluate = control.should_save = True


class StopEarly(TrainerCallback):
    """Stop training where the held-out loss no longer falls, or is no number any more.

    Transformers' own callback counts in a state of its own, which a resumed run does not take up in full.

    Parameters
    ----------
    patience
        Whole passes without improvement after which training stops.
    """

    def __init__(self, patience: int) -> None:
        self.patience = patience

    def on_evaluate(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """Judge the held-out losses so far."""
        history = history_of(state.log_history)
        last = history[-1]
        if not math.isfinite(last["validation_loss"]):
            raise FloatingPointError(
                f"The held-out loss is {last['validation_loss']} after epoch {last['epoch']:g}: training diverged; "
                f"lower lr (now {args.learning_rate:g}) or clip (now {args.max_grad_norm:g})."
            )
        if float(last["epoch"]).is_integer() and should_stop(losses_of_passes(history), self.patience):
            control.should_training_stop = True


class Progress(TrainerCallback):
    """Say at each step how far training is, with the last losses, and note its speed.

    Parameters
    ----------
    told
        The stage whose steps are counted.
    tokens_a_pass, steps_a_pass
        Predicted tokens, and optimiser steps, of one pass over the training windows.
    """

    def __init__(self, told: Stage, tokens_a_pass: int, steps_a_pass: int) -> None:
        self.told = told
        self.tokens_a_step = tokens_a_pass / steps_a_pass
        self.start = 0.0
        self.first_step = 0

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Start the clock at the step from which training goes on."""
        self._start_clock(state)

    def _start_clock(self, state: TrainerState) -> None:
        self.start, self.first_step = time.perf_counter(), state.global_step

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """Count the step."""
        self.told.advance()

    def on_log(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """Note the speed beside the training loss, before validation; the log is part of every checkpoint."""
        entry = state.log_history[-1]
        if "loss" in entry:
            entry["seconds"] = time.perf_counter() - self.start
            entry["tokens_per_second"] = self.tokens_a_step * (state.global_step - self.first_step) / entry["seconds"]

    def on_evaluate(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """Tell the losses, and leave validation out of the next speed."""
        row = history_of(state.log_history)[-1]
        self.told.advance(0, **{"train": row["train_loss"], "held-out": row["validation_loss"]})
        self._start_clock(state)
