"""A finished run without its weights: small enough to be committed, and still a run that others take over."""

import json
import shutil
from collections.abc import Sequence
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file

from newllm.files import FINISHED_FILE, RUN_FILE, SAVED_MODEL, atomic_file, digest_of_file, read_json, write_json
from newllm.runs.folder import TABLES_FOLDER

# Of all published weights together.
MOST_WEIGHTS = 30_000_000
WEIGHTS = "*.safetensors"
BYTES_A_WEIGHT = 2


def publish_run(folder: Path, target: Path, files: Sequence[str], *, with_model: bool = False) -> None:
    """Copy the files of a finished run that tables and figures read, sealed as a run of their own.

    Parameters
    ----------
    folder
        Of the finished run.
    target
        Where the copy goes; what lies there under the same names is replaced.
    files
        Names of the files to copy.
    with_model
        Whether the trained model goes with them, its weights in bfloat16.

    Raises
    ------
    FileNotFoundError, newllm.files.DamagedFileError
        Where the run is not finished, or lacks one of the files.
    """
    stored = read_json(folder / FINISHED_FILE)
    target.mkdir(parents=True, exist_ok=True)
    for name in (*files, RUN_FILE):
        (target / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(folder / name, target / name)
    if with_model:
        files = [*files, *_publish_model(folder / SAVED_MODEL, target / SAVED_MODEL)]
    else:
        shutil.rmtree(target / SAVED_MODEL, ignore_errors=True)
    kept = {name: digest_of_file(target / name) for name in sorted(files)}
    write_json(target / FINISHED_FILE, stored | {"files": kept, "trials": []})


def tables_in(folder: Path) -> list[str]:
    """Return the names of the tables of a finished run; weights and checkpoints beside them are left behind."""
    return [name for name in read_json(folder / FINISHED_FILE)["files"] if name.startswith(f"{TABLES_FOLDER}/")]


def published_size(model: Path) -> int:
    """Return the bytes that the weights in a folder of a model take in bfloat16."""
    return sum(_values_of(path) for path in model.glob(WEIGHTS)) * BYTES_A_WEIGHT


def _values_of(path: Path) -> int:
    with path.open("rb") as file:
        header = json.loads(file.read(int.from_bytes(file.read(8), "little")))
    shapes = [described["shape"] for name, described in header.items() if name != "__metadata__"]
    return sum(int(torch.Size(shape).numel()) for shape in shapes)


def _publish_model(model: Path, target: Path) -> list[str]:
    """Copy a saved model, its weights in bfloat16, and return the names of its files in the run."""
    target.mkdir(parents=True, exist_ok=True)
    names = []
    for path in sorted(model.iterdir()):
        names.append(f"{SAVED_MODEL}/{path.name}")
        if path.match(WEIGHTS):
            tensors = load_file(path)
            small = {
                name: tensor.to(torch.bfloat16) if tensor.is_floating_point() else tensor
                for name, tensor in tensors.items()
            }
            with atomic_file(target / path.name) as temporary:
                save_file(small, temporary, {"format": "pt"})
        else:
            shutil.copyfile(path, target / path.name)
    return names
