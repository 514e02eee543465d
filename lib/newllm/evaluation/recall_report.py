"""All recall measures of one model, from its losses on the test windows and one more pass over repeated passages."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from newllm.config.groups import EvaluationParameters
from newllm.data.sides import TextSides
from newllm.data.windows import TokenWindows
from newllm.evaluation.recall import (
    PASSAGE_TOKENS,
    SIXTEENTHS,
    by_place_in_period,
    position_gain,
    recall_losses,
    recall_tokens,
    repeated_passages,
)
from newllm.evaluation.statistics import Interval
from newllm.models.language_model import LanguageModel

# The numbers of a record, and what they mean.
MEASURES = {
    "recall_hits_loss": "loss on pairs seen before (nats)",
    "recall_misses_loss": "loss on the same pairs with another end",
    "recall_others_loss": "loss on all other tokens",
    "position_gain": "gain of late positions (nats)",
    "repeated_passage_gain": "gain on a passage said twice (nats)",
}


@dataclass(frozen=True)
class RecallReport:
    """What of the past a model uses.

    Attributes
    ----------
    tokens
        Loss of the tokens that complete a pair seen before, of their controls and of all others, as
        `newllm.evaluation.recall.recall_losses` gives them.
    passages
        Gain on repeated passages by distance, as `newllm.evaluation.recall.repeated_passages` gives it; no rows where
        windows are too short for any.
    positions
        What a longer past is worth; None where windows are too short to tell.
    places
        Loss by the place in the model's period, as `newllm.evaluation.recall.by_place_in_period` gives it; no rows for
        a model that has none, or where windows are shorter than two periods.
    """

    tokens: pd.DataFrame
    passages: pd.DataFrame
    positions: Interval | None
    places: pd.DataFrame

    def metrics(self) -> dict[str, float | None]:
        """Return the numbers of a record: nats a token, those that apply."""
        found: dict[str, float | None] = {
            f"recall_{row['kind']}_loss": float(row["loss"]) for row in self.tokens.to_dict("records")
        }
        if self.positions is not None:
            found["position_gain"] = self.positions.mean
        if len(self.passages):
            found["repeated_passage_gain"] = float(self.passages["gain"].mean())
        return found

    def as_dict(self) -> dict[str, Any]:
        """Return everything as plain JSON values; what cannot be told is None."""
        gain = None if self.positions is None else self.positions.columns("gain")
        return {
            "tokens": self.tokens.to_dict("records"),
            "passages": self.passages.to_dict("records"),
            "position_gain": gain,
            "places": self.places.to_dict("records"),
        }


def most_passages(windows: TokenWindows, parameters: EvaluationParameters) -> int | None:
    """Return how many repeated passages some windows have room for; None where they are too short for any.

    Parameters
    ----------
    windows
        Test windows.
    parameters
        Distances of the repeated passages.
    """
    distances = fitting_distances(parameters, windows.seq_length)
    return len(windows.token_ids) - 2 * PASSAGE_TOKENS - max(distances) if distances else None


def refuse_too_many_passages(windows: TokenWindows, parameters: EvaluationParameters) -> None:
    """Refuse, by a ValueError, more repeated passages than some windows have room for.

    Parameters
    ----------
    windows, parameters
        As for `most_passages`.
    """
    most = most_passages(windows, parameters)
    if most is not None and parameters.repeated_passages > most:
        raise ValueError(
            f"repeated_passages={parameters.repeated_passages} is more than the scored text has room for: give "
            + (f"at most {most}, or more windows to score" if most > 0 else "more windows to score")
        )


def fitting_distances(parameters: EvaluationParameters, length: int) -> list[int]:
    """Return the distances at which a passage and its repetition fit into a window."""
    return [each for each in parameters.repeat_distances if each + 2 * PASSAGE_TOKENS <= length]


def measure_recall(
    model: LanguageModel, data: TextSides, losses: NDArray[np.float64], parameters: EvaluationParameters
) -> RecallReport:
    """Measure what of the past a model uses.

    Parameters
    ----------
    model
        The model, on its device.
    data
        Test windows; the training windows say which pairs of tokens are rare.
    losses
        Of each predicted token of the test windows (N, T), nats.
    parameters
        Distances and number of the repeated passages.
    """
    ids, length, period = data.test.token_ids, data.test.seq_length, model.period
    distances = fitting_distances(parameters, length)
    passages = pd.DataFrame()
    if distances:
        passages = repeated_passages(model, ids, distances, passages=parameters.repeated_passages, device=model.device)
    return RecallReport(
        tokens=recall_losses(
            losses, recall_tokens(data.test.rows(), data.train.token_ids[None], model.config.vocab_size)
        ),
        passages=passages,
        positions=position_gain(losses) if length >= SIXTEENTHS else None,
        places=by_place_in_period(losses, period, skip=period) if 1 < period <= length // 2 else pd.DataFrame(),
    )
