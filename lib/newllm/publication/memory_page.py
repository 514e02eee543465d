"""The page "What does it remember?": one held-out passage, read by every published method, token by token."""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from newllm.config.experiment import ExperimentParameters
from newllm.config.groups import DataParameters
from newllm.data import prepare_data
from newllm.evaluation.recall import recall_tokens
from newllm.experiments.arms import Arm
from newllm.experiments.scoring import EVALUATION_FILE, is_loaded
from newllm.figures.style import BETTER, WORSE
from newllm.files import read_json, read_plain_json, write_json
from newllm.models.registry import BASELINE
from newllm.publication.templates import page_template
from newllm.runs.record import Record, read_record

TEMPLATE = "memory.html"
PASSAGE_FILE = "passage.json"
PAGE_FILE = "memory.html"

# Extra nats at which a token has the strongest colour, and how many shades there are on the way.
STRONGEST = 2.0
SHADES = 4
BYTES_A_VALUE = 4  # caches are measured in float32
ANY_VOCABULARY = 512  # it makes no difference to a cache


class NoPassageError(ValueError):
    """Published results that do not hold what the page shows."""


@dataclass(frozen=True)
class Passage:
    """The first test window of some data.

    Attributes
    ----------
    data
        Fingerprint of the data.
    source
        Where the text comes from.
    tokens
        Text of each of its tokens (T + 1,), the first of which is only read.
    hits
        For each predicted token (T,) whether it completes a pair of tokens that stood in the window before and is rare
        in the training text.
    """

    data: str
    source: str
    tokens: list[str]
    hits: list[bool]

    def is_read_by(self, record: Record) -> bool:
        """Whether a trial was scored on this passage: on this data, in windows of this length."""
        given = record.parameters
        return given.get("data") == self.data and given.get("seq_length") == len(self.hits)


@dataclass(frozen=True)
class Token:
    """A predicted token as one method sees it."""

    text: str
    shade: str
    note: str
    hit: bool
    ends_period: bool


@dataclass(frozen=True)
class Row:
    """The passage as one method reads it.

    Attributes
    ----------
    arm, seeds
        Who reads, and over how many seeds losses are averaged.
    tokens
        The predicted tokens (T,).
    bytes_after
        Bytes that the cache keeps after 1 to T tokens.
    loss, extra
        Mean loss of the passage, and by how much that is above the baseline's; nats per token.
    extra_at_hits
        The same over the tokens that complete a pair seen before; None where there are none.
    """

    arm: str
    seeds: int
    tokens: list[Token]
    bytes_after: list[int]
    loss: float
    extra: float
    extra_at_hits: float | None


def make_passage(record: Record) -> Passage:
    """Read the first test window of the data that a record was made with.

    Parameters
    ----------
    record
        Its parameters name the text.

    Raises
    ------
    NoPassageError
        Where the text is no longer what it was.
    """
    given = {name: record.parameters[name] for name in DataParameters.model_fields}
    data = prepare_data(DataParameters(**given))
    if data.fingerprint != record.parameters["data"]:
        raise NoPassageError(
            f"the text that {record.arm} was scored on ({record.parameters['data'][:8]}) is not the text that "
            f"{given['source']} gives here ({data.fingerprint[:8]}): publish where it was trained."
        )
    window = data.test.token_ids[: data.test.seq_length + 1].astype(np.int64)
    tokens = data.tokenizer.convert_ids_to_tokens(window.tolist())
    hits = recall_tokens(window[None], data.train.token_ids[None], len(data.tokenizer)).hits[0]
    texts = [data.tokenizer.convert_tokens_to_string([token]) for token in tokens]
    return Passage(data.fingerprint, given["source"], texts, hits.tolist())


def missing_passage(folder: Path, record: Record) -> Passage | None:
    """Make the passage of a record's data; None where it lies beside the published trials already."""
    file = folder / PASSAGE_FILE
    if file.is_file() and Passage(**read_json(file)).is_read_by(record):
        return None
    return make_passage(record)


def write_passage(folder: Path, passage: Passage) -> None:
    """Write a passage beside the published trials."""
    write_json(folder / PASSAGE_FILE, asdict(passage))


def render(folder: Path) -> str:
    """Write the page from published trials.

    Parameters
    ----------
    folder
        Holds a passage and folders of published trials; those that have read the passage are shown.

    Returns
    -------
    str
        HTML with everything in it; it reads without scripts, and the slider needs them.

    Raises
    ------
    NoPassageError
        Where there is no passage, or the baseline has not read it.
    """
    try:
        passage = Passage(**read_json(folder / PASSAGE_FILE))
    except FileNotFoundError as error:
        raise NoPassageError(f"{folder} holds no {PASSAGE_FILE}: publish a run with newllm publish.") from error
    rows = _rows(folder, passage)
    return page_template(TEMPLATE).render(
        passage=passage,
        rows=rows,
        length=len(passage.hits),
        most=max(row.bytes_after[-1] for row in rows),
        strongest=STRONGEST,
        shades=range(1, SHADES + 1),
        better=BETTER,
        worse=WORSE,
        sizes=json.dumps([row.bytes_after for row in rows]),
    )


def _rows(folder: Path, passage: Passage) -> list[Row]:
    """Gather the methods that have read the passage, the baseline first and then by what they keep."""
    found: dict[str, list[tuple[Record, NDArray[np.float64]]]] = {}
    for file in sorted(folder.glob(f"*/{EVALUATION_FILE}")):
        record = read_record(file.parent)
        if is_loaded(record.arm):  # what it keeps token by token is not known by its name
            continue
        shown = read_plain_json(file).get("first_windows")
        if shown and passage.is_read_by(record):
            found.setdefault(record.arm, []).append((record, np.asarray(shown[0])))
    if BASELINE not in found:
        raise NoPassageError(f"{folder} holds no {BASELINE} that has read the passage: publish its trial.")
    baseline = _mean(found[BASELINE])
    rows = [_row(records[0][0], len(records), _mean(records), baseline, passage) for records in found.values()]
    return sorted(rows, key=lambda row: (row.arm != BASELINE, -row.bytes_after[-1], row.extra))


def _mean(records: Sequence[tuple[Record, NDArray[np.float64]]]) -> NDArray[np.float64]:
    return np.mean([losses for _, losses in records], axis=0)


def _row(
    record: Record, seeds: int, losses: NDArray[np.float64], baseline: NDArray[np.float64], passage: Passage
) -> Row:
    known = {name: value for name, value in record.parameters.items() if name in ExperimentParameters.model_fields}
    with torch.device("meta"):
        model = Arm.parse(record.arm).build(ExperimentParameters(**known), ANY_VOCABULARY, seed=0)
    extra = losses - baseline
    hits = np.asarray(passage.hits)
    tokens = [
        Token(
            text=text,
            shade=_shade(more),
            note=f"{loss:.2f} nats, {more:+.2f} from {BASELINE}",
            hit=hit,
            ends_period=model.period > 1 and (place + 2) % model.period == 0,
        )
        for place, (text, loss, more, hit) in enumerate(
            zip(passage.tokens[1:], losses, extra, passage.hits, strict=True)
        )
    ]
    return Row(
        arm=record.arm,
        seeds=seeds,
        tokens=tokens,
        bytes_after=[BYTES_A_VALUE * model.cached_values(count) for count in range(1, len(losses) + 1)],
        loss=float(losses.mean()),
        extra=float(extra.mean()),
        extra_at_hits=float(extra[hits].mean()) if hits.any() else None,
    )


def _shade(extra: float) -> str:
    """Name the colour of a token: ``worse1`` to ``worse4``, ``better1`` to ``better4``, or none."""
    strength = round(min(abs(extra), STRONGEST) / STRONGEST * SHADES)
    return f"{'worse' if extra > 0 else 'better'}{strength}" if strength else ""
