"""The text of a retrofit from token ids of a caller's."""

from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from newllm.config.retrofit import RetrofitParameters
from newllm.data.sides import TextSides
from newllm.data.windows import TokenIds, TokenWindows, concatenate, smallest_id_type
from newllm.files import digest
from newllm.models.methods.pythia import PythiaModel
from newllm.retrofit.text import HELD_OUT

# Of a single row of ids.
USUAL_WINDOW = 512


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
    run, length = _run(calibration_ids, parent, parameters.seq_length)
    windows = (len(run) - 1) // length
    scored = None if scored_ids is None else _run(scored_ids, parent, length)[0]
    if scored is not None and np.array_equal(run, scored):
        raise ValueError("calibration_ids and scored_ids are the same: score on another text")
    # From the end: what every stage is scored on, and before it what healing is judged by.
    share = max(1, windows // HELD_OUT)
    to_score = share if scored is None else 0
    to_judge = share if parameters.healing_tokens else 0
    learned = windows - to_judge - to_score
    if learned < 1:
        raise ValueError(
            f"calibration_ids hold {windows} windows of {length} tokens, of which {to_judge + to_score} are held out: "
            "give more, or scored_ids"
        )
    table = _check_bytes(bytes_per_token, parent.config.vocab_size)
    all_windows = TokenWindows(run, length, table)
    test = all_windows.after(learned + to_judge) if scored is None else TokenWindows(scored, length, table)
    validation = all_windows.after(learned).first(to_judge) if to_judge else test
    identity = {"calibration": digest(run.tobytes()), "scored": digest(test.token_ids.tobytes())}
    return TextSides(all_windows.first(learned), validation, test, identity)


def _run(ids: Any, parent: PythiaModel, seq_length: int | None) -> tuple[TokenIds, int]:
    """Check a caller's ids, and cut them to a run of whole windows with the id after them; return their length too."""
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
    flat = concatenate([array.ravel().astype(np.uint32)], smallest_id_type(vocabulary))
    usual = array.shape[1] if array.ndim == 2 else min(USUAL_WINDOW, max(2, (len(flat) - 1) // HELD_OUT))
    length = seq_length or usual
    windows = (len(flat) - 1) // length
    if windows < 1:
        raise ValueError(
            f"{len(flat)} ids are less than one window of {length} and the id after it: give more, or a smaller "
            "seq_length"
        )
    return flat[: windows * length + 1], length


def _check_bytes(bytes_per_token: Any | None, vocabulary: int) -> NDArray[np.int64]:
    """Return the bytes of each id as a table that windows take; zeros where nobody knows them."""
    if bytes_per_token is None:
        return np.zeros(vocabulary, np.int64)
    table = np.asarray(bytes_per_token)
    if table.shape != (vocabulary,) or not np.issubdtype(table.dtype, np.integer) or table.min() < 0:
        raise ValueError(
            f"bytes_per_token must be {vocabulary} whole numbers of 0 or more, one for each id of the model"
        )
    return table.astype(np.int64)
