"""``newllm retrofit`` on a disk that is full when it heals, saves or writes: one sentence, and it goes on later."""

import errno
import importlib

import pytest
import torch
from safetensors import SafetensorError

from newllm import cli, tensor_files
from newllm.models import create
from newllm.runs.saving import save_trained_model
from tests.comparison_setup import settings


def no_room(*args, **kwargs):
    raise SafetensorError("Error while serializing: I/O error: No space left on device (os error 28)")


def no_room_for_text(*args, **kwargs):
    raise OSError(errno.ENOSPC, "No space left on device")


@pytest.mark.parametrize(
    ("module", "name", "full", "named"),
    [
        (tensor_files, "save_file", no_room, "start.safetensors cannot be written (No space left on device)"),
        (
            "transformers.modeling_utils",
            "safe_save_file",
            no_room,
            "out/model cannot be written (No space left on device)",
        ),
        ("newllm.retrofit.running", "write_json", no_room_for_text, "out cannot be written (No space left on device)"),
    ],
)
def test_a_retrofit_ends_in_a_sentence_and_goes_on_once_there_is_room(
    module, name, full, named, text_data, text_folder, tmp_path, capsys, monkeypatch
):
    torch.manual_seed(0)
    save_trained_model(tmp_path / "parent", create("pythia", "tiny", vocab_size=320), text_data.tokenizer)
    values = {
        **{"source": "text", "text_files": settings(text_folder).text_files[0], "seq_length": 16},
        **{"val_samples": 6, "test_samples": 6, "calibration_windows": 8, "healing_tokens": 512, "controls": "false"},
    }
    given = [part for key, value in values.items() for part in ("-p", f"{key}={value}")]
    asked = ["retrofit", str(tmp_path / "parent"), "--to", "mla", "--output", str(tmp_path / "out"), "--device", "cpu"]
    with monkeypatch.context() as here:
        here.setattr(importlib.import_module(module) if isinstance(module, str) else module, name, full)
        assert cli.main([*asked, *given]) == 1
    output = capsys.readouterr().out
    assert named in output and "Traceback" not in output
    assert cli.main([*asked, *given]) == 0
    assert (tmp_path / "out" / "finished.json").is_file()
