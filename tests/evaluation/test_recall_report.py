"""All recall measures of a model together: what a record and its files say of them."""

import json
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from newllm.config.groups import EvaluationParameters
from newllm.data.windows import TokenWindows
from newllm.evaluation.perplexity import evaluate
from newllm.evaluation.recall_report import RecallReport, measure_recall
from tests.evaluation.test_recall import VOCABULARY, Copier

LENGTH = 128


def report_of(model: Copier, period: int = 1, length: int = LENGTH) -> RecallReport:
    """Measure a model that remembers by chunks of ``period`` on ids of which half the windows repeat themselves."""
    ids = np.random.default_rng(1).integers(0, VOCABULARY, 16 * LENGTH + 1).astype(np.uint16)
    for start in range(0, 16 * LENGTH, 2 * LENGTH):
        ids[start + LENGTH // 2 : start + LENGTH] = ids[start : start + LENGTH // 2]
    windows = TokenWindows(ids, length, np.ones(VOCABULARY, dtype=np.int64))
    model.period = period  # type: ignore[assignment]
    data: Any = SimpleNamespace(train=windows, test=windows)
    losses = evaluate(model, windows).token_losses  # type: ignore[arg-type]
    parameters = EvaluationParameters(repeat_distances=[32, 64, 999], repeated_passages=16)
    return measure_recall(model, data, losses, parameters)  # type: ignore[arg-type]


def test_a_copier_recalls_and_one_that_forgets_does_not():
    copier, forgetful = report_of(Copier()).metrics(), report_of(Copier(reach=0)).metrics()
    assert copier.keys() == forgetful.keys()
    assert copier["recall_hits_loss"] < copier["recall_others_loss"] - 1
    assert forgetful["recall_hits_loss"] == pytest.approx(forgetful["recall_others_loss"])
    assert copier["repeated_passage_gain"] > 2.5
    assert forgetful["repeated_passage_gain"] == pytest.approx(0)
    assert copier["position_gain"] > 0.5
    assert forgetful["position_gain"] == pytest.approx(0)


def test_distances_beyond_the_window_are_not_asked():
    assert list(report_of(Copier()).passages["distance"]) == [32, 64]


def test_places_are_told_of_models_with_a_period_only():
    assert report_of(Copier()).places.empty
    assert list(report_of(Copier(), period=8).places["place"]) == list(range(8))
    assert report_of(Copier(), period=LENGTH).places.empty


def test_short_windows_leave_out_what_they_cannot_tell():
    report = report_of(Copier(), length=8)
    assert report.positions is None
    assert report.passages.empty
    assert report.metrics().keys() == {"recall_hits_loss", "recall_misses_loss", "recall_others_loss"}
    assert json.loads(json.dumps(report.as_dict()))["position_gain"] is None
