"""What each of two processes does in the test of training together."""

import sys
from pathlib import Path

import torch
from transformers import TrainerCallback

from newllm import files
from newllm.processes import agreed, is_first, joined, process_count, wait_for_others
from newllm.training import checkpoints, main
from tests.training_setup import CPU, Data, Windows, run, tiny_model, training

# 21 windows in batches of 4: in the last one of a pass the second process has none. 9 held-out ones: likewise.
EPOCHS = 3
INTERRUPTED_AT = 8


WRITERS = (
    (files, "write_atomically"),
    (main, "write_json"),
    (main, "write_tensors"),
    (checkpoints, "write_json"),
    (checkpoints, "save_file"),
)


def data() -> Data:
    return Data(Windows(21, seed=1), Windows(9, seed=2))


def shared_run(folder: Path, callbacks: list[TrainerCallback] | None = None, model=None, **settings):
    """Train without dropout, which differs between processes and between parts of a batch."""
    model = model or tiny_model()
    model.config.hidden_dropout = 0.0
    for module in model.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0
    return run(folder, training(epochs=EPOCHS, lr=0.01, **settings), model=model, data=data(), callbacks=callbacks)


class Interrupt(TrainerCallback):
    """End a training in the middle of a pass."""

    def on_step_end(self, args, state, control, **kwargs):
        if state.global_step == INTERRUPTED_AT:
            raise KeyboardInterrupt


def interrupted(folder: Path) -> None:
    try:
        shared_run(folder, [Interrupt()])
    except KeyboardInterrupt:
        return
    raise AssertionError("it was not interrupted")


def refuse_to_write(*arguments, **named):
    raise AssertionError(f"the second process writes {arguments[-1]}")


def part(folder: Path) -> None:
    """Train in one go, begin what one process will end, and end what one process began."""
    with joined(CPU):
        assert process_count() == 2
        assert agreed(is_first())
        if not is_first():
            for module, name in WRITERS:
                setattr(module, name, refuse_to_write)
        shared_run(folder / "together")
        shared_run(folder / "in parts", micro_batch_size=1)
        interrupted(folder / "begun together")
        wait_for_others()
        shared_run(folder / "begun alone")


if __name__ == "__main__":
    torch.set_num_threads(1)
    part(Path(sys.argv[1]))
