"""Two processes that share each batch have the losses of one, write once, and take turns with one."""

import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from newllm.files import project_root
from newllm.processes import agreed, first_alone, is_first, process_count
from tests.training.shared_training import EPOCHS, interrupted, shared_run

# Sums over a batch are rounded in another order.
TOLERANCE = 1e-5


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("localhost", 0))
        return int(listener.getsockname()[1])


def start_two(folder: Path) -> None:
    """Run both processes as the launcher does, and wait for them."""
    shared = {"WORLD_SIZE": "2", "MASTER_ADDR": "localhost", "MASTER_PORT": str(free_port())}
    paths = os.pathsep.join([str(project_root() / "lib"), str(project_root())])
    started = [
        subprocess.Popen(
            [sys.executable, "-m", "tests.training.shared_training", str(folder)],
            env=os.environ | shared | {"RANK": str(rank), "LOCAL_RANK": str(rank), "PYTHONPATH": paths},
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in range(2)
    ]
    try:
        ended = [process.communicate(timeout=300)[1] for process in started]
    finally:
        for process in started:
            process.kill()
    assert [process.returncode for process in started] == [0, 0], "\n".join(ended)


def test_two_processes_have_the_losses_of_one_and_either_goes_on_with_what_the_other_began(tmp_path):
    _, alone = shared_run(tmp_path / "alone")
    interrupted(tmp_path / "begun alone")
    start_two(tmp_path)
    shared_run(tmp_path / "begun together")
    assert [row["epoch"] for row in alone.history] == list(range(1, EPOCHS + 1))
    weights = load_file(tmp_path / "alone" / "model.safetensors")
    for name in ("together", "in parts", "begun together", "begun alone"):
        found = json.loads((tmp_path / name / "training.json").read_text())
        assert found["best_epoch"] == alone.best_epoch
        for row, expected in zip(found["history"], alone.history, strict=True):
            for loss in ("train_loss", "validation_loss"):
                assert row[loss] == pytest.approx(expected[loss], abs=TOLERANCE)
        theirs = load_file(tmp_path / name / "model.safetensors")
        assert all(torch.allclose(theirs[key], value, atol=1e-3) for key, value in weights.items())


def test_one_process_waits_for_nobody():
    assert (process_count(), is_first(), agreed(True), agreed(False)) == (1, True, True, False)
    with first_alone():
        pass
