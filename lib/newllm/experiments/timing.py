"""How long trials take: expected from a few steps of each kind, then corrected by those that are finished."""

import logging
import time
from collections.abc import Mapping, Sequence
from typing import Any

from newllm.data import TextData
from newllm.experiments.recipes import RECIPES, freeze
from newllm.experiments.trial import Trial
from newllm.runtime import choose_device
from newllm.wording import describe_seconds

logger = logging.getLogger(__name__)
SETTINGS_THAT_TAKE_TIME = ("size", "batch_size", "epochs", "precision", "device", "stream_tokens")


def expected_seconds(trials: Sequence[Trial], data: TextData) -> dict[Trial, float]:
    """Say how long the main training of each trial takes at most, by timing a few steps of each kind of trial.

    Parameters
    ----------
    trials
        What shall be run.
    data
        Training and held-out windows.
    """
    by_kind: dict[tuple[Any, ...], float] = {}
    expected = {}
    for trial in trials:
        parameters = trial.parameters
        settings = trial.arm.settings(parameters)
        # Learning rates and the like take no time.
        kind = (trial.arm, repr(settings), *(getattr(parameters, name) for name in SETTINGS_THAT_TAKE_TIME))
        if kind not in by_kind:
            model = trial.arm.build(parameters, len(data.tokenizer), trial.seed)
            freeze(trial.arm, model)
            estimate = RECIPES[model.recipe].estimate
            by_kind[kind] = estimate(model, data, parameters, device=choose_device(parameters.device))
        expected[trial] = by_kind[kind]
    return expected


class Clock:
    """Says how long the trials take: at first what was expected, then by what the finished trials took.

    Parameters
    ----------
    expected
        Seconds of each trial, as `expected_seconds` gives them.
    processes
        How many trials run side by side.
    """

    def __init__(self, expected: Mapping[Trial, float], processes: int) -> None:
        self.expected = dict(expected)
        self.total = len(self.expected)
        self.start = time.perf_counter()
        self.done_share = 0.0
        logger.info(
            "%d trials to train: about %s at most, projection training aside.",
            self.total,
            describe_seconds(sum(self.expected.values()) / processes),
        )

    def finished(self, trial: Trial) -> None:
        """Note that a trial is finished, and say what is left."""
        self.done_share += self.expected.pop(trial)
        left = sum(self.expected.values())
        passed = time.perf_counter() - self.start
        logger.info(
            "%d of %d trials are finished after %s; about %s left.",
            self.total - len(self.expected),
            self.total,
            describe_seconds(passed),
            describe_seconds(passed * left / self.done_share),
        )
