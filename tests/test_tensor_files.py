import errno
import resource

import pytest
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file

from newllm import tensor_files
from newllm.files import DamagedFileError, UnwritableError, write_atomically
from newllm.models import create
from newllm.tensor_files import read_tensors, save_tensors, write_tensors

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


def full_disk(tensors, path, metadata):
    path.write_bytes(b"the beginning")
    raise SafetensorError("Error while serializing: I/O error: No space left on device (os error 28)")


@pytest.mark.parametrize("write", [save_tensors, write_tensors])
def test_a_full_disk_is_said_in_words_and_leaves_nothing(write, tmp_path, monkeypatch):
    monkeypatch.setattr(tensor_files, "save_file", full_disk)
    path = tmp_path / "a.safetensors"
    with pytest.raises(UnwritableError) as caught:
        write(path, TENSORS)
    assert str(caught.value) == f"{path} cannot be written (No space left on device): choose another place."
    assert caught.value.errno == errno.ENOSPC
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("write", [save_tensors, write_tensors])
def test_what_stood_there_stays_where_the_system_refuses_more(write, tmp_path):
    path = tmp_path / "a.safetensors"
    write(path, TENSORS)
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, before[1]))
    try:
        with pytest.raises(UnwritableError, match=r"a.safetensors cannot be written \(File too large\)"):
            write(path, {"weight": torch.zeros(10_000)})
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert load_file(path)["weight"].shape == (2, 3)
    assert [each.name for each in tmp_path.iterdir()] == ["a.safetensors"]


def test_a_model_that_the_system_refuses_says_so_too(tmp_path):
    model = create("pythia", "tiny", vocab_size=320)
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, before[1]))
    try:
        with pytest.raises(UnwritableError, match=r"saved cannot be written \(File too large\)"):
            model.save_pretrained(tmp_path / "saved")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_what_is_no_refusal_of_the_system_is_not_said_to_be_one(tmp_path, monkeypatch):
    def wrong(tensors, path, metadata):
        raise SafetensorError("Error while serializing: invalid shape")

    monkeypatch.setattr(tensor_files, "save_file", wrong)
    with pytest.raises(SafetensorError, match="invalid shape"):
        save_tensors(tmp_path / "a.safetensors", TENSORS)
    assert list(tmp_path.iterdir()) == []
