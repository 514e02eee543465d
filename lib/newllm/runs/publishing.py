"""A finished run without its weights: small enough to be committed, and still a run that others take over."""

import json
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors.torch import load_file

from newllm.files import (
    FINISHED_FILE,
    RUN_FILE,
    SAVED_MODEL,
    DamagedFileError,
    atomic_file,
    digest_of_file,
    read_json,
    write_json,
)
from newllm.runs.contents import why_unfinished
from newllm.runs.folder import TABLES_FOLDER
from newllm.runs.seal import read_seal
from newllm.tensor_files import save_tensors

# Of all published weights together.
MOST_WEIGHTS = 30_000_000
WEIGHTS = "*.safetensors"
BYTES_A_WEIGHT = 2


class PublishingError(ValueError):
    """What cannot be published; one sentence says why, and what to do."""


@dataclass(frozen=True)
class Publication:
    """A copy of a run that was looked through, and that nothing is written of yet.

    Attributes
    ----------
    folder
        Of the finished run.
    target
        Where the copy goes.
    files
        Digest of each file that is copied as it is, by its name in the folder.
    weights
        Names of the files that are copied in bfloat16.
    """

    folder: Path
    target: Path
    files: dict[str, str]
    weights: tuple[str, ...]

    def write(self) -> None:
        """Copy the files, what says that they are whole at last.

        Raises
        ------
        newllm.files.DamagedFileError
            Where a file was changed since it was looked through.
        """
        if not any(name.startswith(f"{SAVED_MODEL}/") for name in self.files):
            shutil.rmtree(self.target / SAVED_MODEL, ignore_errors=True)
        seal = read_json(self.folder / FINISHED_FILE)
        kept = dict(self.files)
        for name, known in self.files.items():
            with atomic_file(self.target / name) as temporary:
                shutil.copyfile(self.folder / name, temporary)
                if digest_of_file(temporary) != known:
                    raise DamagedFileError(f"{self.folder / name} was changed while it was published: run it again.")
        for name in self.weights:
            with atomic_file(self.target / name) as temporary:
                _save_small(self.folder / name, temporary)
            kept[name] = digest_of_file(self.target / name)
        write_json(self.target / RUN_FILE, {"identity": seal["identity"]})
        write_json(self.target / FINISHED_FILE, seal | {"files": dict(sorted(kept.items())), "trials": []})


def plan_publication(folder: Path, target: Path, files: Sequence[str], *, with_model: bool = False) -> Publication:
    """Look through a finished run of which some files shall be published; nothing is written.

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
    PublishingError
        Where the run is not finished, a file of it is not what the run wrote, or it lacks one of these.
    """
    refuse_unfinished(folder)
    seal = read_seal(folder)
    model = [name for name in seal.files if with_model and name.startswith(f"{SAVED_MODEL}/")]
    missing = [name for name in files if name not in seal.files]
    if missing or (with_model and not model):
        lacking = missing[0] if missing else SAVED_MODEL
        raise PublishingError(f"{folder} holds no {lacking} that its run wrote: run it again before it is published.")
    weights = tuple(name for name in model if Path(name).match(WEIGHTS))
    plain = sorted({*files, *model} - set(weights))
    return Publication(folder, target, {name: seal.files[name] for name in plain}, weights)


def refuse_unfinished(folder: Path) -> None:
    """Refuse a run that is not finished, or of which a file is not what the run wrote.

    Raises
    ------
    PublishingError
        In one sentence.
    """
    reason = why_unfinished(folder)
    if reason is not None:
        raise PublishingError(
            f"{folder} is not published ({reason or 'it is not finished'}): run it again, which makes what is missing."
        )


def tables_in(folder: Path) -> list[str]:
    """Return the names of the tables of a finished run; weights and checkpoints beside them are left behind."""
    return [name for name in read_seal(folder).files if name.startswith(f"{TABLES_FOLDER}/")]


def published_size(model: Path) -> int:
    """Return the bytes that the weights in a folder of a model take in bfloat16."""
    return sum(_values_of(path) for path in model.glob(WEIGHTS)) * BYTES_A_WEIGHT


def _values_of(path: Path) -> int:
    with path.open("rb") as file:
        header = json.loads(file.read(int.from_bytes(file.read(8), "little")))
    shapes = [described["shape"] for name, described in header.items() if name != "__metadata__"]
    return sum(int(torch.Size(shape).numel()) for shape in shapes)


def _save_small(weights: Path, target: Path) -> None:
    """Save weights in bfloat16."""
    tensors = load_file(weights)
    small = {
        name: tensor.to(torch.bfloat16) if tensor.is_floating_point() else tensor for name, tensor in tensors.items()
    }
    save_tensors(target, small, {"format": "pt"})
