"""The text of a retrofit from files of a user's: one to calibrate and to heal on, one to score on."""

import logging
from pathlib import Path
from typing import Any

from transformers import PreTrainedTokenizerFast

from newllm.config.retrofit import RetrofitFiles, RetrofitParameters
from newllm.config.text_files import TEXT_SUFFIXES
from newllm.data.groups import DocumentGroups
from newllm.data.preparation import NotEnoughTextError
from newllm.data.sides import TextSides
from newllm.data.sources import document_hash, file_texts
from newllm.data.tokenizers import bytes_per_token as count_bytes
from newllm.data.tokenizers import encode_documents
from newllm.data.windows import TokenWindows, WindowCount, concatenate, smallest_id_type
from newllm.files import digest_of_file
from newllm.retrofit.text import HELD_OUT

logger = logging.getLogger(__name__)


def check_files(files: RetrofitFiles) -> dict[str, str]:
    """Refuse files that are missing, of another kind, or both the same; return the SHA-256 of each by its parameter.

    Raises
    ------
    ValueError, FileNotFoundError
        In one sentence.
    """
    named = {"calibration_file": files.calibration_file, "scored_file": files.scored_file}
    for name, path in named.items():
        if not path.is_file():
            raise FileNotFoundError(f"{name}: there is no file {path}.")
        if path.suffix not in TEXT_SUFFIXES:
            raise ValueError(f"{name} is {path}, but only .txt and .jsonl files are read.")
    digests = {name: digest_of_file(path) for name, path in named.items()}
    if digests["calibration_file"] == digests["scored_file"]:
        raise ValueError(f"calibration_file and scored_file are both {files.scored_file}: score on another text.")
    return digests


def identify_files(files: RetrofitFiles) -> dict[str, Any]:
    """Say, as plain JSON values, what the text of the files depends on: their content, whatever they are called.

    Raises
    ------
    ValueError, FileNotFoundError
        As `check_files`.
    """
    return check_files(files) | {"scored_windows": files.scored_windows, "seq_length": files.seq_length}


def read_files(files: RetrofitFiles, tokenizer: PreTrainedTokenizerFast, parameters: RetrofitParameters) -> TextSides:
    """Read the windows to calibrate and to heal on, held-out ones for healing, and those to score on.

    A .txt file is one document, of a .jsonl file each line is one; documents end with end-of-text. A warning says where
    documents are in both files.

    Raises
    ------
    NotEnoughTextError
        Where a file has fewer windows.
    ValueError
        Where a file is no text.
    """
    windows = parameters.windows_to_learn(files.seq_length)
    # What healing is judged by.
    healing = -(-parameters.healing_tokens // files.seq_length)
    held_out = max(1, healing // HELD_OUT) if healing else 0
    scored, known = _read_file(files.scored_file, "scored_file", tokenizer, files.seq_length, files.scored_windows)
    both, learned = _read_file(
        files.calibration_file, "calibration_file", tokenizer, files.seq_length, windows + held_out
    )
    if again := known & learned:
        logger.warning(
            "%d of the %d documents of scored_file are in calibration_file too: their losses are not of held-out text.",
            len(again),
            len(known),
        )
    identity = {name: str(value) for name, value in identify_files(files).items()}
    return TextSides(both.first(windows), both.after(windows) if held_out else scored, scored, identity)


def _read_file(
    path: Path, name: str, tokenizer: PreTrainedTokenizerFast, seq_length: int, asked: WindowCount
) -> tuple[TokenWindows, set[bytes]]:
    """Return the first windows of a file, and hashes of its documents."""
    texts = list(file_texts(path))
    documents = list(encode_documents(tokenizer, texts))
    ids = concatenate([[], *documents], smallest_id_type(len(tokenizer)))
    there = (len(ids) - 1) // seq_length
    windows = there if asked == "all" else asked
    if there < max(1, windows):
        raise NotEnoughTextError(
            f"{name} {path} has {max(0, there)} windows of {seq_length} tokens, but {max(1, windows)} are asked for: "
            "give a longer file, or ask for fewer or shorter windows."
        )
    taken = windows * seq_length + 1
    groups = DocumentGroups.of((len(document), str(number)) for number, document in enumerate(documents))
    read = TokenWindows(ids[:taken], seq_length, count_bytes(tokenizer), groups.first(taken))
    return read, {document_hash(text) for text in texts if text.strip()}
