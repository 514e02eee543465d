"""What the files hold that parameters name: other content in the same place is another result."""

from pathlib import Path

from pydantic import BaseModel

from newllm.config.text_files import digest_of_texts, matching_files
from newllm.files import SAVED_MODEL, digest_of_file, digest_of_json, local_folder

# Parameters that may name a file, or the folder of a saved model; else a hub id, or what is no place.
PLACES = ("tokenizer", "facts_file", "embedding_source", "llama", "llama_calibration_file", "llama_scored_file")
TEXTS = "text_files"


def digest_name(parameter: str) -> str:
    """Return the key under which an identity holds the digest of what a parameter names."""
    return f"{parameter}_digest"


def digests_of_files(parameters: BaseModel) -> dict[str, str]:
    """Return the digest of what each parameter names that names files which are there, as an identity holds them.

    A file that has not been written since is not read again. What is not there is refused before any work.

    Parameters
    ----------
    parameters
        Of a notebook.
    """
    given = {name: getattr(parameters, name) for name in (*PLACES, TEXTS) if name in type(parameters).model_fields}
    found = {name: _digest_of(name, value) for name, value in given.items() if value is not None}
    return {digest_name(name): value for name, value in found.items() if value is not None}


def digest_of_place(where: str | Path) -> str | None:
    """Return the digest of a file, or of weights and tokenizer of a saved model; None where neither is there."""
    place = Path(where).expanduser()
    if place.is_file():
        return digest_of_file(place)
    if (place / SAVED_MODEL).is_dir():
        place = place / SAVED_MODEL
    # One file or several; a trial without its weights keeps other tensors.
    weights = sorted(place.glob("model*.safetensors"))
    files = [path for path in (*weights, place / "tokenizer.json") if path.is_file()]
    return digest_of_json([digest_of_file(path) for path in files]) if weights else None


def _digest_of(name: str, value: str | Path | tuple[str, ...]) -> str | None:
    if isinstance(value, tuple):
        try:
            return digest_of_texts([path for pattern in value for path in matching_files(pattern)])
        except (ValueError, OSError):
            return None
    # A model is looked for among the outputs, too.
    return digest_of_place((local_folder(value) if name == "llama" else None) or value)
