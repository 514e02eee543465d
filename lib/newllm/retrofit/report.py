"""The report of a retrofit: what is measured of each stage, and its table as a reader needs it."""

import logging
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from newllm.config.groups import EvaluationParameters
from newllm.data.sides import TextSides
from newllm.evaluation.cache import measure
from newllm.evaluation.comparison_statistics import two_way_difference
from newllm.evaluation.perplexity import evaluate
from newllm.evaluation.recall_report import MEASURES, measure_recall
from newllm.files import digest_of_json, read_json, write_json
from newllm.models.decoder import Decoder
from newllm.tensor_files import digest_of_tensors
from newllm.wording import number, plus_minus

logger = logging.getLogger(__name__)
RESULT_FILE = "retrofit.json"
REPORT_FILE = "report.csv"
LOSSES_FILE = "window_losses.json"
# Names of stages, and of controls, that others look for.
ORIGINAL = "original"
ABSORBABLE = "position absorbable"
HEALED = "healed"
RANDOM_PARTS = "replaced parts random"
NOT_COMPRESSED = "not compressed"
AVERAGED_HEAD = "averaged head"

# Tokens after which a cache is measured, or all of a window where that is shorter.
MEASURED_TOKENS = 64
# Recall columns of the table, of those that `newllm.evaluation.recall_report` has.
SHOWN_RECALL = ("recall_hits_loss", "position_gain", "repeated_passage_gain")
# Columns of the table that a terminal has room for.
FEW_COLUMNS = ("stage", "KV bytes a token (measured)", "kept", "perplexity", "accuracy", "nats/token lost")


@dataclass(frozen=True)
class Stage:
    """A model on the way, and what is to be said of it beside its scores."""

    name: str
    model: Decoder
    energy_lost: Sequence[float] = ()
    healing_tokens: int = 0
    is_control: bool = False


@dataclass(frozen=True)
class ScoredStage:
    """What was measured of a stage.

    Attributes
    ----------
    row
        Its row of the report.
    window_losses
        Mean loss of each test window (N,), nats a token.
    seconds
        That it took to measure all of this.
    reading_seconds
        Of these, what one pass over the test windows took.
    """

    row: dict[str, Any]
    window_losses: NDArray[np.float64]
    seconds: float
    reading_seconds: float


class Scores:
    """Scores of models by their weights: retrofits of one parent share stages, which are then scored once."""

    def __init__(self) -> None:
        self._known: dict[str, ScoredStage] = {}

    def of(
        self, model: Decoder, text: TextSides, parameters: EvaluationParameters, folder: Path | None = None
    ) -> ScoredStage:
        """Score a model on the test windows, measure its cache and what of the past it uses, unless that is known.

        Parameters
        ----------
        model
            The model.
        text
            Test windows; the training windows say which pairs of tokens are rare.
        parameters
            Of the recall measures.
        folder
            Where scores are kept too, for a process that goes on with what was killed; nowhere where omitted.
        """
        windows = [text.fingerprint, text.test.seq_length]
        key = digest_of_json([_digest(model), *windows, parameters.model_dump(mode="json")])
        file = None if folder is None else folder / f"{key}.json"
        if key not in self._known:
            self._known[key] = _read_scores(file) or _score(model, text, parameters)
        if file is not None and not file.is_file():
            _write_scores(file, self._known[key])
        return self._known[key]


def _read_scores(file: Path | None) -> ScoredStage | None:
    """Read the scores that a file keeps; None where it has none."""
    if file is None or not file.is_file():
        return None
    kept = read_json(file)
    return ScoredStage(**{**kept, "window_losses": np.array(kept["window_losses"])})


def _write_scores(file: Path, scored: ScoredStage) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    write_json(file, {**vars(scored), "window_losses": scored.window_losses.tolist()})


def _digest(model: Decoder) -> str:
    """SHA-256 of what decides a model's answers: its configuration and its weights."""
    return digest_of_tensors(model.state_dict(), {"config": model.config.to_json_string(use_diff=False)})


def _score(model: Decoder, text: TextSides, parameters: EvaluationParameters) -> ScoredStage:
    start = time.perf_counter()
    score = evaluate(model, text.test)
    reading = time.perf_counter() - start
    cache = measure(model, min(MEASURED_TOKENS, text.test.seq_length))
    assert cache.agrees
    recall = measure_recall(model, text, score.token_losses, parameters).metrics()
    measured = {
        "bytes_per_token": cache.bytes_per_token,
        "perplexity": score.perplexity,
        "bits_per_byte": score.bits_per_byte if score.text_bytes else None,
        "accuracy": score.accuracy,
        **{name: recall.get(name) for name in MEASURES},
    }
    return ScoredStage(measured, score.window_losses, time.perf_counter() - start, reading)


def describe_stage(stage: Stage, scored: ScoredStage, original: ScoredStage | None, text: TextSides) -> ScoredStage:
    """Put a row of the report together.

    Parameters
    ----------
    stage
        What was scored.
    scored
        Its scores.
    original
        What the difference is taken from; None for the original itself.
    text
        Whose documents the interval is over.
    """
    measured, losses = scored.row, scored.window_losses
    row: dict[str, Any] = {
        "stage": stage.name,
        "bytes_per_token": measured["bytes_per_token"],
        "kept": 1.0 if original is None else measured["bytes_per_token"] / original.row["bytes_per_token"],
        **{name: measured[name] for name in ("perplexity", "bits_per_byte", "accuracy")},
    }
    row |= dict.fromkeys(("difference", "difference_low", "difference_high"))
    if original is not None:
        found = two_way_difference(losses[None], original.window_losses[None], text.test.document_groups)
        row |= found.interval.columns("difference")
    row |= {
        **{name: measured[name] for name in MEASURES},
        "energy_lost": float(np.mean(stage.energy_lost)) if len(stage.energy_lost) else None,
        "energy_lost_by_layer": [round(share, 6) for share in stage.energy_lost] or None,
        "healing_tokens": stage.healing_tokens,
        "control": stage.is_control,
    }
    logger.info("%s: perplexity %.2f, %.0f bytes a token.", stage.name, row["perplexity"], row["bytes_per_token"])
    return replace(scored, row=row)


def report_table(report: pd.DataFrame) -> pd.DataFrame:
    """Write a report as texts, one row a stage.

    Parameters
    ----------
    report
        As `newllm.retrofit.retrofit` leaves it.

    Returns
    -------
    pandas.DataFrame
        Texts; what was not measured of a stage is empty, and controls say that they are.
    """
    return pd.DataFrame(
        [
            {
                "stage": f"{row['stage']} (control)" if row["control"] else row["stage"],
                "KV bytes a token (measured)": f"{row['bytes_per_token']:,.0f}",
                "kept": f"{row['kept']:.1%}",
                "perplexity": f"{row['perplexity']:,.2f}",
                "bits/byte": number(row["bits_per_byte"], "{:.3f}"),
                "accuracy": f"{row['accuracy']:.1%}",
                "nats/token lost": plus_minus(row, "difference", "{:+.3f}"),
                **{MEASURES[name]: number(row[name], "{:.3f}") for name in SHOWN_RECALL},
                "energy lost": number(row["energy_lost"], "{:.1%}"),
                "tokens of healing": f"{row['healing_tokens']:,}" if row["healing_tokens"] else "",
            }
            for row in report.to_dict("records")
        ]
    )
