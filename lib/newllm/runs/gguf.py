"""GGUF files: a Llama or a Qwen2 in one file, unpacked once into a folder that every loader reads."""

import importlib.util
import logging
import os
import shutil
from pathlib import Path
from typing import Any

import torch
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

from newllm.files import PARTIAL, DamagedFileError, cache_folder, digest_of_file, first_damaged, read_json, write_json
from newllm.models.published_llama import READERS
from newllm.runtime import errors_only
from newllm.wording import first_line

logger = logging.getLogger(__name__)
GGUF_FOLDER = "gguf"
UNPACKED_FILE = "unpacked.json"


def unpack_gguf(file: Path) -> Path:
    """Unpack a GGUF file into the cache folder: weights in float32, as the file's quantisation gives them.

    Parameters
    ----------
    file
        A Llama, SmolLM2 or Qwen2 with its tokenizer; read by transformers, with the package gguf. Nothing in it is run.

    Returns
    -------
    Path
        A folder as transformers' ``save_pretrained`` writes it.

    Raises
    ------
    ValueError
        Where gguf is not installed, the file is damaged, or the model is of another family.
    """
    folder = cache_folder() / GGUF_FOLDER / f"{file.stem}-{digest_of_file(file)[:32]}"
    if _is_whole(folder):
        return folder
    if importlib.util.find_spec("gguf") is None:
        raise ValueError(f"{file} is read with the package gguf, which is not here: pip install gguf==0.19.0.")
    logger.info("Unpacking %s, once.", file.name)
    partial = folder.with_name(f"{PARTIAL}{os.getpid()}-{folder.name}")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    try:
        _unpack(file, partial)
        names = sorted(path.name for path in partial.iterdir())
        write_json(partial / UNPACKED_FILE, {"files": {name: digest_of_file(partial / name) for name in names}})
        shutil.rmtree(folder, ignore_errors=True)
        partial.rename(folder)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    return folder


def _is_whole(folder: Path) -> bool:
    """Tell whether a file was unpacked there, and everything is as it was written."""
    try:
        return first_damaged(folder, read_json(folder / UNPACKED_FILE)["files"]) is None
    except (FileNotFoundError, DamagedFileError):
        return False


def _unpack(file: Path, folder: Path) -> None:
    where: dict[str, Any] = {"gguf_file": file.name, "local_files_only": True}
    # A damaged file ends in whatever the libraries stumble over: ValueError, IndexError, UnicodeDecodeError ...
    try:
        with errors_only():
            config = AutoConfig.from_pretrained(file.parent, **where)
            kind = config.model_type
            if kind in READERS:
                model: Any = AutoModelForCausalLM.from_pretrained(file.parent, **where, dtype=torch.float32)
                # The weights that are saved are no longer quantised.
                del model.config.quantization_config
                model.hf_quantizer = None
                model.save_pretrained(folder)
                AutoTokenizer.from_pretrained(file.parent, **where).save_pretrained(folder)
    except Exception as error:
        raise ValueError(f"{file} is no GGUF file that can be read ({first_line(error)}).") from error
    if kind not in READERS:
        raise ValueError(f"{file} holds a {kind}: only {', '.join(READERS)} are read of GGUF files.")
