"""Tensors on disk: safetensors with a digest of their content, and what a model and an optimiser put into them."""

import hashlib
import json
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.optim import Optimizer

from newllm.files import DamagedFileError, UnwritableError, atomic_file

DIGEST = "digest"

# What safetensors says where the system refuses to write: the reason, and its number.
_REFUSED = re.compile(r"^Error while serializing: I/O error: (.*) \(os error (\d+)\)")


def digest_of_tensors(tensors: Mapping[str, Tensor], metadata: Mapping[str, str] | None = None) -> str:
    """Return the SHA-256 of names, types, shapes and bytes, whatever their order, as 64 hexadecimal digits."""
    content = hashlib.sha256(json.dumps(dict(metadata or {}), sort_keys=True).encode())
    for name, tensor in sorted(tensors.items()):
        content.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        content.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data)
    return content.hexdigest()


@contextmanager
def unwritable_in_words(path: Path) -> Iterator[None]:
    """Raise UnwritableError for a path where safetensors cannot write: its own error is no OSError."""
    try:
        yield
    except SafetensorError as error:
        refused = _REFUSED.match(str(error))
        if refused is None:
            raise
        raise UnwritableError(int(refused[2]), refused[1], str(path)) from error


def save_tensors(path: Path, tensors: Mapping[str, Tensor], metadata: Mapping[str, str] | None = None) -> None:
    """Write a plain safetensors file that whoever reads the folder can read.

    safetensors puts a file of its own in the place, which its owner alone can read.

    Raises
    ------
    UnwritableError
        Where the system refuses, as on a full disk; what stood there before still does, and nothing else.
    """
    with unwritable_in_words(path):
        _save(path, tensors, metadata)


def _save(path: Path, tensors: Mapping[str, Tensor], metadata: Mapping[str, str] | None) -> None:
    is_new = not path.exists()
    path.touch()
    mode = path.stat().st_mode
    try:
        save_file(dict(tensors), path, None if metadata is None else dict(metadata))
    except BaseException:
        if is_new:
            path.unlink(missing_ok=True)
        raise
    path.chmod(mode)


def write_tensors(path: Path, tensors: Mapping[str, Tensor], metadata: Mapping[str, str] | None = None) -> None:
    """Write tensors and texts atomically, with a digest that `read_tensors` checks.

    Raises
    ------
    UnwritableError
        As of `save_tensors`, and of `newllm.files.atomic_file`.
    """
    plain = {name: tensor.detach().contiguous() for name, tensor in tensors.items()}
    described = dict(metadata or {})
    with atomic_file(path) as temporary, unwritable_in_words(path):
        _save(temporary, plain, described | {DIGEST: digest_of_tensors(plain, described)})


def read_tensors(path: Path, expected: str | None = None) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Read the tensors and texts of a safetensors file.

    Parameters
    ----------
    path
        The file.
    expected
        The digest of its tensors alone, where it is known from elsewhere; otherwise the file must have its own.

    Raises
    ------
    FileNotFoundError
        Where there is no file.
    DamagedFileError
        Where it is anything but what was written.
    """
    try:
        with safe_open(path, "pt") as file:
            metadata = dict(file.metadata() or {})
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (it is no mapping)
    except FileNotFoundError:
        raise
    except (SafetensorError, OSError, ValueError) as error:
        raise DamagedFileError(f"{path} is damaged: it is no safetensors file ({error})") from error
    own = metadata.pop(DIGEST, None)
    found = digest_of_tensors(tensors) if expected else digest_of_tensors(tensors, metadata)
    if found != (expected or own):
        raise DamagedFileError(f"{path} is damaged: its tensors do not agree with their digest")
    return tensors, metadata


def tensors_of(module: nn.Module) -> dict[str, Tensor]:
    """Return parameters and buffers of a module by name, those that are tied once, under their first name."""
    tensors: dict[str, Tensor] = {}
    seen = set()
    for name, tensor in module.state_dict().items():
        place = (tensor.data_ptr(), tensor.shape, tensor.stride())
        if tensor.numel() == 0 or place not in seen:
            tensors[name] = tensor
        seen.add(place)
    return tensors


def load_tensors(module: nn.Module, tensors: Mapping[str, Tensor]) -> None:
    """Load all that `tensors_of` gave of an equal module.

    Raises
    ------
    ValueError
        Where names are missing or unknown.
    """
    if different := tensors.keys() ^ tensors_of(module).keys():
        raise ValueError(f"the weights are not those of a {type(module).__name__}: {min(different)} is in one alone")
    module.load_state_dict(dict(tensors), strict=False)


def optimizer_tensors(optimizer: Optimizer) -> dict[str, Tensor]:
    """Return the state of an optimiser as tensors, named ``<parameter's number>.<name>``."""
    state = optimizer.state_dict()["state"]
    return {f"{index}.{name}": value for index, slots in state.items() for name, value in slots.items()}


def load_optimizer_tensors(optimizer: Optimizer, tensors: Mapping[str, Tensor]) -> None:
    """Load what `optimizer_tensors` gave into an optimiser of the same parameters."""
    state: dict[int, dict[str, Tensor]] = {}
    for key, value in tensors.items():
        index, name = key.split(".")
        state.setdefault(int(index), {})[name] = value
    optimizer.load_state_dict(optimizer.state_dict() | {"state": state})
