"""The windows of a retrofit: of a source, of a user's files or of a caller's ids, and those that healing reads."""

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor
from transformers import PreTrainedTokenizerFast

from newllm.config.retrofit import RetrofitFiles, RetrofitParameters
from newllm.data.groups import DocumentGroups
from newllm.data.preparation import NotEnoughTextError
from newllm.data.sides import TextSides
from newllm.data.sources import TEXT_SUFFIXES, file_texts
from newllm.data.tokenizers import bytes_per_token as count_bytes
from newllm.data.tokenizers import encode_documents
from newllm.data.windows import TokenWindows, WindowCount, concatenate, smallest_id_type
from newllm.files import digest, digest_of_file
from newllm.models.methods.pythia import PythiaModel

# Of a single row of ids.
USUAL_WINDOW = 512
# One window in so many is held out, where no others are given to score.
HELD_OUT = 5


def check_files(files: RetrofitFiles) -> None:
    """Refuse files that are missing, of another kind, or both the same.

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
    if files.calibration_file.samefile(files.scored_file):
        raise ValueError(f"calibration_file and scored_file are both {files.scored_file}: score on another text.")


def identify_files(files: RetrofitFiles) -> dict[str, Any]:
    """Say, as plain JSON values, what the text of the files depends on: their content, whatever they are called.

    Raises
    ------
    ValueError, FileNotFoundError
        As `check_files`.
    """
    check_files(files)
    digests = {side: digest_of_file(getattr(files, side)) for side in ("calibration_file", "scored_file")}
    return digests | {"scored_windows": files.scored_windows, "seq_length": files.seq_length}


def read_files(files: RetrofitFiles, tokenizer: PreTrainedTokenizerFast, calibration_windows: int) -> TextSides:
    """Read so many windows of the file to calibrate on, and those of the file to score on.

    A .txt file is one document, of a .jsonl file each line is one; documents end with end-of-text.

    Raises
    ------
    NotEnoughTextError
        Where a file has fewer windows.
    ValueError
        Where a file is no text.
    """
    scored = _read_file(files.scored_file, "scored_file", tokenizer, files.seq_length, files.scored_windows)
    train = _read_file(files.calibration_file, "calibration_file", tokenizer, files.seq_length, calibration_windows)
    return TextSides(train, scored, scored, {name: str(value) for name, value in identify_files(files).items()})


def _read_file(
    path: Path, name: str, tokenizer: PreTrainedTokenizerFast, seq_length: int, asked: WindowCount
) -> TokenWindows:
    documents = list(encode_documents(tokenizer, file_texts(path)))
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
    return TokenWindows(ids[:taken], seq_length, count_bytes(tokenizer), groups.first(taken))


def read_ids(
    parent: PythiaModel,
    parameters: RetrofitParameters,
    calibration_ids: Any,
    scored_ids: Any | None,
    bytes_per_token: NDArray[np.int64] | None,
) -> TextSides:
    """Cut a caller's ids into windows, as `newllm.retrofit.retrofit` says.

    Raises
    ------
    ValueError
        Where they are no ids of the model, or too few.
    """
    train, length = _windows(calibration_ids, parent, parameters.seq_length)
    scored = train[-max(1, len(train) // HELD_OUT) :]
    if scored_ids is None:
        train = train[: -len(scored)]
    else:
        scored = _windows(scored_ids, parent, length)[0]
    if not len(train):
        raise ValueError("calibration_ids hold one window, which is held out to score: give two or more, or scored_ids")
    table = np.zeros(parent.config.vocab_size, np.int64) if bytes_per_token is None else bytes_per_token
    sides = [TokenWindows(_joined(rows), length, table) for rows in (train, scored)]
    identity = {"calibration": digest(train.tobytes()), "scored": digest(scored.tobytes())}
    return TextSides(sides[0], sides[1], sides[1], identity)


def _windows(ids: Any, parent: PythiaModel, seq_length: int | None) -> tuple[NDArray[np.int64], int]:
    """Cut ids into rows that are read one after the other."""
    array = np.asarray(ids.cpu() if isinstance(ids, Tensor) else ids)
    if array.ndim not in (1, 2) or array.size < 2 or not np.issubdtype(array.dtype, np.integer):
        raise ValueError("calibration_ids and scored_ids must be token ids, a row (N,) or windows (B, T)")
    vocabulary = parent.config.vocab_size
    if array.min() < 0 or array.max() >= vocabulary:
        wrong = int(array.min() if array.min() < 0 else array.max())
        raise ValueError(
            f"the text has the id {wrong}, but the model knows ids from 0 to {vocabulary - 1}: tokenise it by the "
            "tokenizer of the model"
        )
    flat = array.astype(np.int64).ravel()
    length = seq_length or (array.shape[1] if array.ndim == 2 else min(USUAL_WINDOW, max(2, len(flat) // HELD_OUT)))
    rows = len(flat) // length
    if rows < 1:
        raise ValueError(f"{len(flat)} ids are less than one window of {length}: give more, or a smaller seq_length")
    return flat[: rows * length].reshape(rows, length), length


def _joined(rows: NDArray[np.int64]) -> Any:
    """Rows of ids as one run with one id more, of a type that windows take; the last id stands twice."""
    run = np.append(rows.ravel(), rows[-1, -1])
    return run.astype(smallest_id_type(int(run.max()) + 1))


def check_healing(text: TextSides, parameters: RetrofitParameters) -> None:
    """Refuse healing of a single step, whose rate is the zero that its warm-up begins with.

    Raises
    ------
    ValueError
        In one sentence.
    """
    step = parameters.batch_size * text.train.seq_length
    if 0 < parameters.healing_tokens <= step:
        raise ValueError(
            f"healing_tokens={parameters.healing_tokens} is one step of healing, whose learning rate is still 0: give "
            f"more than {step:,}, or a smaller batch_size."
        )


def healing_text(text: TextSides, tokens: int) -> TextSides:
    """Take the first windows of the training text, of at least that many tokens, or all there are."""
    length = text.train.seq_length
    count = min(len(text.train), -(-tokens // length))
    ids = text.train.token_ids[: count * length + 1]
    # Nobody asks how many bytes of text these windows are.
    windows = TokenWindows(ids, length, np.zeros(int(ids.max()) + 1, np.int64))
    return TextSides(windows, text.validation, text.test, {**text.identity, "healing_windows": str(count)})
