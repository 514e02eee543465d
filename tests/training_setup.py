"""A tiny model, tiny windows and trainings that are stopped or killed, shared by the tests of main training."""

import os
import signal
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch.utils.data import Dataset
from transformers import GPTNeoXConfig, GPTNeoXForCausalLM, TrainerCallback

from newllm.config.groups import TrainingParameters
from newllm.training import checkpoints
from newllm.training import main as main_training
from newllm.training.main import TrainingResult, train

VOCABULARY = 64
LENGTH = 16
CPU = torch.device("cpu")


def training(**changes: Any) -> TrainingParameters:
    """Settings of a training that stops early: after 4 epochs, the third one being the best."""
    return TrainingParameters(**{"epochs": 6, "lr": 0.02, "batch_size": 4, **changes})


class Windows(Dataset[dict[str, torch.Tensor]]):
    """Windows over one run of text-like ids (half of them follow from the one before), noting who was read."""

    def __init__(self, count: int, seed: int) -> None:
        generator = torch.Generator().manual_seed(seed)
        noise = torch.randint(0, VOCABULARY, (count, LENGTH + 1), generator=generator)
        kept = torch.rand((count, LENGTH + 1), generator=generator) < 0.5
        self.ids = noise.clone()
        for position in range(1, LENGTH + 1):
            following = (self.ids[:, position - 1] * 5 + 3) % VOCABULARY
            self.ids[:, position] = torch.where(kept[:, position], following, noise[:, position])
        self.read: list[int] = []

    def __len__(self) -> int:
        return len(self.ids)

    def __getitem__(self, index: int) -> dict[str, torch.Tensor]:
        self.read.append(index)
        return {"input_ids": self.ids[index], "labels": self.ids[index]}


@dataclass
class Data:
    train: Windows = field(default_factory=lambda: Windows(22, seed=1))
    validation: Windows = field(default_factory=lambda: Windows(10, seed=2))
    identity: dict[str, str] = field(default_factory=lambda: {"source": "test"})


def tiny_model(seed: int = 0) -> GPTNeoXForCausalLM:
    """A model with dropout, so that a resumed run needs the random state too."""
    torch.manual_seed(seed)
    config = GPTNeoXConfig(
        vocab_size=VOCABULARY,
        hidden_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=32,
        max_position_embeddings=32,
        hidden_dropout=0.1,
    )
    return GPTNeoXForCausalLM(config)


def run(
    folder: Path, settings: TrainingParameters | None = None, **arguments: Any
) -> tuple[GPTNeoXForCausalLM, TrainingResult]:
    """Train in ``folder`` with whatever is not given as usual."""
    model = arguments.pop("model", None) or tiny_model()
    data = arguments.pop("data", None) or Data()
    given: dict[str, Any] = {"seed": 3, "device": CPU, **arguments}
    return model, train(model, data, settings or training(), folder, **given)


class StoppedError(Exception):
    """The interruption of the tests."""


class StopAt(TrainerCallback):
    """Raise at an event of the Trainer, when so many steps are done."""

    def __init__(self, event: str, step: int) -> None:
        setattr(self, event, self.stop)
        self.step = step

    def stop(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if state.global_step == self.step:
            raise StoppedError


def mean_loss(model: torch.nn.Module, windows: Windows) -> float:
    """Nats per predicted token, by hand."""
    model.eval()
    with torch.no_grad():
        logits = model(input_ids=windows.ids).logits
    return F.cross_entropy(logits[:, :-1].flatten(0, 1), windows.ids[:, 1:].flatten()).item()


def numbers(result: TrainingResult) -> list[tuple[float, float, float]]:
    return [(row["epoch"], row["train_loss"], row["validation_loss"]) for row in result.history]


def same_weights(left: torch.nn.Module, right: torch.nn.Module) -> bool:
    ours, theirs = left.state_dict(), right.state_dict()
    return ours.keys() == theirs.keys() and all(torch.equal(ours[name], theirs[name]) for name in ours)


def kill() -> None:
    """End this process as a machine that is switched off would."""
    os.kill(os.getpid(), signal.SIGKILL)


class KillAtStep(TrainerCallback):
    def __init__(self, step: int) -> None:
        self.step = step

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if state.global_step == self.step:
            kill()


class KillWhileSaving(checkpoints.SafeTrainer):
    """Die between the weights and the state of the second checkpoint."""

    def _save_rng_state(self, output_dir: str) -> None:
        if len(checkpoints.all_checkpoints(Path(output_dir).parent)) > 1:
            kill()
        super()._save_rng_state(output_dir)


def killed(folder: Path, **arguments: Any) -> bool:
    """Run in a process of its own, and tell whether it was killed."""
    if not (child := os.fork()):
        run(folder, **arguments)
        os._exit(0)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -signal.SIGKILL


if __name__ == "__main__":
    # Two processes for the price of one start.
    torch.set_num_threads(1)
    place = Path(sys.argv[1])
    assert killed(place, callbacks=[KillAtStep(9)])
    main_training.SafeTrainer = KillWhileSaving  # type: ignore[attr-defined]
    assert killed(place)
