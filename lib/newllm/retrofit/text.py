"""The windows of a retrofit: token ids of a caller's cut into them, and those that healing reads."""

from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from newllm.config.retrofit import RetrofitParameters
from newllm.data.windows import TokenWindows, smallest_id_type
from newllm.files import digest
from newllm.models.methods.pythia import PythiaModel

# Of a single row of ids.
USUAL_WINDOW = 512
# One window in so many is held out, where no others are given to score.
HELD_OUT = 5


class Sides(Protocol):
    """What a retrofit reads of text; `newllm.data.TextData` is of this form."""

    @property
    def train(self) -> TokenWindows:
        """Windows to calibrate and to heal on."""

    @property
    def validation(self) -> TokenWindows:
        """Held-out windows for the losses that healing reports."""

    @property
    def test(self) -> TokenWindows:
        """Held-out windows that every stage is scored on."""

    @property
    def identity(self) -> dict[str, str]:
        """What they depend on."""


@dataclass(frozen=True)
class Text:
    """The windows of a retrofit, of whatever text: see `Sides`."""

    train: TokenWindows
    validation: TokenWindows
    test: TokenWindows
    identity: dict[str, str]


def read_ids(
    parent: PythiaModel,
    parameters: RetrofitParameters,
    calibration_ids: Any,
    scored_ids: Any | None,
    bytes_per_token: NDArray[np.int64] | None,
) -> Text:
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
    return Text(sides[0], sides[1], sides[1], identity)


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


def healing_text(text: Sides, tokens: int) -> Text:
    """Take the first windows of the training text, of at least that many tokens, or all there are."""
    length = text.train.seq_length
    count = min(len(text.train), -(-tokens // length))
    ids = text.train.token_ids[: count * length + 1]
    # Nobody asks how many bytes of text these windows are.
    windows = TokenWindows(ids, length, np.zeros(int(ids.max()) + 1, np.int64))
    return Text(windows, text.validation, text.test, {**text.identity, "healing_windows": str(count)})
