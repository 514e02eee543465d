"""Training tokens per second of `pythia` against transformers' GPTNeoXForCausalLM, with the same Trainer settings.

Under the test command each side makes a few steps and the ratio is printed, never asserted. By hand, for real figures
(`mini` by default; ``70m`` takes minutes)::

    python -m tests.speed.test_training_speed [size] [steps] [rounds]
"""

import statistics
import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch.utils.data import Dataset
from transformers import GPTNeoXConfig, GPTNeoXForCausalLM, PreTrainedModel

from newllm import models
from newllm.config.groups import TrainingParameters
from newllm.training.main import train

SEQ_LENGTH = 128
BATCH_SIZE = 8


class Windows(Dataset[dict[str, torch.Tensor]]):
    """Random ids: the speed does not depend on what is learned, and nothing is learned here."""

    def __init__(self, count: int, vocabulary: int) -> None:
        generator = torch.Generator().manual_seed(count)
        self.ids = torch.randint(0, vocabulary, (count, SEQ_LENGTH + 1), generator=generator)

    def __len__(self) -> int:
        return len(self.ids)

    def __getitem__(self, index: int) -> dict[str, torch.Tensor]:
        return {"input_ids": self.ids[index], "labels": self.ids[index]}


@dataclass
class Data:
    train: Windows
    validation: Windows
    identity: dict[str, str] = field(default_factory=dict)


def reference(model: PreTrainedModel) -> GPTNeoXForCausalLM:
    """Transformers' model of the same shape."""
    config = model.config
    shared = ("vocab_size", "hidden_size", "num_hidden_layers", "num_attention_heads", "intermediate_size")
    return GPTNeoXForCausalLM(GPTNeoXConfig(**{name: getattr(config, name) for name in shared}))


def tokens_per_second(build: Callable[[], PreTrainedModel], steps: int, threads: int) -> float:
    """Predicted tokens per second of one epoch of training, validation and checkpoints left out."""
    torch.set_num_threads(threads)
    model = build()
    vocabulary = model.config.vocab_size
    data = Data(Windows(steps * BATCH_SIZE, vocabulary), Windows(BATCH_SIZE, vocabulary))
    parameters = TrainingParameters(epochs=1, batch_size=BATCH_SIZE)
    with tempfile.TemporaryDirectory() as folder:
        result = train(model, data, parameters, Path(folder), seed=0, device=torch.device("cpu"))
    return result.tokens_per_second


def measure(size: str, steps: int, rounds: int) -> dict[str, float]:
    """Measure both sides in turn, so that a busy machine slows both; medians, and the median of the ratios."""
    threads = torch.get_num_threads()

    def ours() -> PreTrainedModel:
        return models.create("pythia", size)

    def theirs() -> PreTrainedModel:
        return reference(models.create("pythia", size))

    pairs = [tuple(tokens_per_second(build, steps, threads) for build in (ours, theirs)) for _ in range(rounds)]
    return {
        "newllm tokens/s": statistics.median(pair[0] for pair in pairs),
        "GPTNeoXForCausalLM tokens/s": statistics.median(pair[1] for pair in pairs),
        "ratio": statistics.median(pair[0] / pair[1] for pair in pairs),
    }


def test_both_sides_train_with_the_same_settings(record_property):
    figures = measure("tiny", steps=4, rounds=1)
    for name, value in figures.items():
        record_property(name, round(value, 2))
        assert value > 0


if __name__ == "__main__":
    arguments = dict(enumerate(sys.argv))
    found = measure(arguments.get(1, "mini"), int(arguments.get(2, 20)), int(arguments.get(3, 3)))
    sys.stdout.write("".join(f"{name}: {value:.2f}\n" for name, value in found.items()))
