"""The floor of every comparison: what n-grams alone say of the same test windows, once for each data.

An arm that is above it has not learned what a table of counts knows, and tells nothing about memory.
"""

import logging
import math
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any, Self

import numpy as np
import pandas as pd
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from newllm.config.errors import first_problem
from newllm.data import TextData
from newllm.data.tokenizers import bytes_per_token
from newllm.evaluation.ngram import KEY_BITS, KneserNey
from newllm.evaluation.perplexity import perplexity_of
from newllm.files import cache_folder, leads_inside, reference_folder, to_json, write_atomically

logger = logging.getLogger(__name__)

ORDERS = (2, 3, 4)
METHOD = "n-gram"
FLOORS_FOLDER = "floors"

# What a record says of its windows: the fingerprint of the data, and how many tokens a window has.
OF_WINDOWS = ("data", "seq_length")

# Counting takes about 150 bytes of memory a token and order, and seconds a million.
MOST_TOKENS = 50_000_000
WINDOWS_AT_ONCE = 4_096

# Of a published loss: a millionth of a nat is far below any difference.
LOSS_DIGITS = 6
LARGEST_ROUNDING = 2 * 10.0**-LOSS_DIGITS

WindowLoss = Annotated[float, Field(ge=0, allow_inf_nan=False)]
Group = Annotated[int, Field(ge=0, lt=2**63)]


class NGramScore(BaseModel):
    """How well an n-gram model predicts the test windows."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    order: int = Field(ge=1)
    perplexity: float = Field(ge=1, allow_inf_nan=False)
    bits_per_byte: float = Field(ge=0, allow_inf_nan=False)
    window_losses: tuple[WindowLoss, ...] = Field(
        min_length=1, description="mean loss of each test window, nats per token"
    )

    @model_validator(mode="after")
    def _must_agree(self) -> Self:
        loss = float(np.mean(self.window_losses))
        if abs(math.log(self.perplexity) - loss) > LARGEST_ROUNDING:
            raise ValueError(f"perplexity {self.perplexity:g} is not that of its losses, {perplexity_of(loss):g}")
        return self

    @property
    def arm(self) -> str:
        """Name of its row."""
        return f"{self.order}-gram"


class Floor(BaseModel):
    """Scores of n-gram models that were counted on the training windows of some data."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    data: str = Field(description="fingerprint of the data")
    seq_length: int = Field(gt=0)
    window_groups: tuple[Group, ...] = Field(description="number of the document group of each test window")
    scores: tuple[NGramScore, ...]
    duration_seconds: float = Field(ge=0, allow_inf_nan=False)

    @model_validator(mode="after")
    def _must_be_of_the_same_windows(self) -> Self:
        for score in self.scores:
            if len(score.window_losses) != len(self.window_groups):
                raise ValueError(
                    f"{score.arm} has losses of {len(score.window_losses)} windows, but there are "
                    f"{len(self.window_groups)}"
                )
        if len({score.order for score in self.scores}) < len(self.scores):
            raise ValueError("an order is there twice")
        return self

    def rows(self) -> list[dict[str, Any]]:
        """Return a row for each order, in the columns of a record; bytes, seeds and the like do not apply."""
        return [
            {
                "arm": score.arm,
                "method": METHOD,
                "perplexity": score.perplexity,
                "bits_per_byte": score.bits_per_byte,
            }
            for score in self.scores
        ]


def make_floor(data: TextData, folder: Path) -> None:
    """Leave the floor of the data in the folder of a comparison or a sweep: the published one, or counted once.

    Parameters
    ----------
    data
        Training and test windows.
    folder
        Holds the folders of trials.
    """
    name = _file_name(data.fingerprint, data.test.seq_length)
    target = folder / FLOORS_FOLDER / name
    if _read(target) is not None:
        return
    tokens = len(data.train.token_ids)
    if tokens > MOST_TOKENS:
        logger.info("no n-grams are counted on %d tokens: %d at most fit into memory", tokens, MOST_TOKENS)
        return
    cached = cache_folder() / FLOORS_FOLDER / name
    known = [cached, *sorted(reference_folder().rglob(f"{FLOORS_FOLDER}/{name}"))]
    floor = next((found for path in known if (found := _read(path)) is not None), None)
    if floor is None:
        floor = count_floor(data)
    for path in (cached, target):
        write_atomically(path, to_json(floor))


def count_floor(data: TextData) -> Floor:
    """Count n-grams on the training windows, and score them on the test windows.

    Parameters
    ----------
    data
        Training and test windows of the same vocabulary.
    """
    start = time.perf_counter()
    table = bytes_per_token(data.tokenizer)
    vocabulary = max(len(table), int(data.train.token_ids.max()) + 1, int(data.test.token_ids.max()) + 1)
    fitting = [order for order in ORDERS if order * math.log2(vocabulary) <= KEY_BITS]
    fitting = [order for order in fitting if order <= data.train.seq_length + 1]
    floor = Floor(
        data=data.fingerprint,
        seq_length=data.test.seq_length,
        window_groups=tuple(data.test.document_groups.tolist()),
        scores=tuple(_score(order, data, vocabulary) for order in fitting),
        duration_seconds=time.perf_counter() - start,
    )
    said = ", ".join(f"{score.order}-gram {score.perplexity:.1f}" for score in floor.scores)
    logger.info("the floor, perplexity of counts on the same windows: %s", said)
    return floor


def _score(order: int, data: TextData, vocabulary: int) -> NGramScore:
    model = KneserNey(data.train.rows(), order, vocabulary)
    test = data.test.rows()
    losses = np.concatenate(
        [
            model.token_losses(test[start : start + WINDOWS_AT_ONCE]).mean(1)
            for start in range(0, len(test), WINDOWS_AT_ONCE)
        ]
    )
    loss = float(losses.mean())
    return NGramScore(
        order=order,
        perplexity=perplexity_of(loss),
        bits_per_byte=loss * losses.size * data.test.seq_length / math.log(2) / data.test.text_bytes,
        window_losses=tuple(losses.round(LOSS_DIGITS).tolist()),
    )


def floors_of(records: pd.DataFrame) -> Iterator[Floor]:
    """Find the floors of the windows of some records, each once.

    Parameters
    ----------
    records
        Rows of `newllm.experiments.comparison.compare`; a floor lies in a folder above one of those of its windows.
    """
    found = set()
    for _, record in records.iterrows():
        parameters = record.get("parameters", {})
        data = tuple(parameters.get(name) for name in OF_WINDOWS)
        if data in found:
            continue
        floor = next((floor for _, floor in _floors_above(Path(record["folder"]), parameters)), None)
        if floor is not None:
            found.add(data)
            yield floor


def floor_files(record_folder: Path, parameters: Mapping[str, Any]) -> list[Path]:
    """Return the files of the floor that belongs to a record, one at most, to be published with it.

    Parameters
    ----------
    record_folder
        Of the trial.
    parameters
        What its record says of its data and the length of its windows; without them there is no floor.
    """
    return [path for path, _ in _floors_above(record_folder, parameters)][:1]


def _floors_above(record_folder: Path, parameters: Mapping[str, Any]) -> Iterator[tuple[Path, Floor]]:
    """Find the floors of a record's windows above it, of those that can be read."""
    data, seq_length = (parameters.get(name) for name in OF_WINDOWS)
    if not isinstance(data, str) or not isinstance(seq_length, int):
        return
    name = _file_name(data, seq_length)
    # <comparison>/<trial>, or <sweep>/<settings>/<trial>
    for folder in list(record_folder.parents)[:2]:
        place = folder / FLOORS_FOLDER
        if leads_inside(place, name):
            floor = _read(place / name)
            if floor is not None:
                yield place / name, floor


def _file_name(data: str, seq_length: int) -> str:
    """Name the file of a floor: the fingerprint of the data does not say into which windows they are cut."""
    return f"{data}-{seq_length}.json"


def _read(path: Path) -> Floor | None:
    """Read the floor of the windows that a file is named after; None, with a warning, where it is damaged."""
    try:
        floor = Floor.model_validate_json(path.read_bytes())
        if _file_name(floor.data, floor.seq_length) == path.name:
            return floor
        reason = f"it is of windows of {floor.seq_length} tokens of the data {floor.data}"
    except FileNotFoundError:
        return None
    except ValidationError as error:
        reason = first_problem(error)
    except OSError as error:
        reason = f"it cannot be read: {error.strerror}"
    logger.warning("%s is damaged (%s): it is left out", path, reason)
    return None
