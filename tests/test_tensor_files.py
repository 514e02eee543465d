import pytest
import torch

from newllm.files import DamagedFileError, write_atomically
from newllm.tensor_files import read_tensors, write_tensors

TENSORS = {"weight": torch.arange(6.0).reshape(2, 3), "count": torch.tensor(3)}


def test_what_was_written_is_read_by_whoever_can_read_the_folder(tmp_path):
    write_tensors(tmp_path / "a.safetensors", TENSORS, {"step": "7"})
    tensors, metadata = read_tensors(tmp_path / "a.safetensors")
    assert metadata == {"step": "7"}
    for name, tensor in TENSORS.items():
        torch.testing.assert_close(tensors[name], tensor, rtol=0, atol=0)
    text = write_atomically(tmp_path / "a.txt", "")
    assert (tmp_path / "a.safetensors").stat().st_mode == text.stat().st_mode


def test_a_changed_byte_is_noticed(tmp_path):
    path = tmp_path / "a.safetensors"
    write_tensors(path, TENSORS)
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    with pytest.raises(DamagedFileError, match="do not agree with their digest"):
        read_tensors(path)
