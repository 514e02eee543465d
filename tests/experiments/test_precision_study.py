"""Trained models read through caches of fewer bits: once, and taken over where their weights are gone."""

import pandas as pd
import pytest

from newllm.config.notebooks import LatentAttention
from newllm.evaluation.cache_precision import score_by_precision
from newllm.experiments import precision_study
from newllm.experiments.precision_study import score_precisions
from newllm.runs.saved_model import load_model
from tests.comparison_setup import settings


def test_each_arm_that_keeps_tokens_is_read_in_every_precision(
    finished_comparison, text_data, text_folder, tmp_path, monkeypatch
):
    records, folder = finished_comparison[0].reset_index(), finished_comparison[1]
    records = records[records.arm.isin(["pythia", "dproj-oacd"])]
    odd = pd.DataFrame({"arm": ["cascade", "pretrained:x"], "seed": 1, "folder": [tmp_path / "c", tmp_path / "p"]})
    records = pd.concat([records, odd.assign(parameters=[{}, {}])], ignore_index=True)
    parameters = LatentAttention(**settings(text_folder).model_dump() | {"precision_windows": 3})
    monkeypatch.setenv("NEWLLM_OUTPUTS", str(tmp_path))
    table = score_precisions(records, parameters, text_data.test, tmp_path / "06" / "run")
    assert list(table["arm"]) == ["pythia"] * 5 + ["dproj-oacd"] * 5
    alone = score_by_precision(load_model(folder / "pythia-seed1"), text_data.test.first(3))
    assert list(table["perplexity"][:5]) == pytest.approx(list(alone["perplexity"]))
    assert list(table["difference_high"][1:5]) == pytest.approx(list(alone["high"][1:]))
    monkeypatch.setattr(precision_study, "load_model", None)
    again = score_precisions(records, parameters, text_data.test, tmp_path / "06" / "another")
    pd.testing.assert_frame_equal(again, table)


def test_the_first_windows_are_those_of_all(text_data):
    windows = text_data.test
    few = windows.first(2)
    assert len(few) == 2 and len(windows.first(10**6)) == len(windows)
    assert [few[index]["labels"].tolist() for index in range(2)] == [
        windows[index]["labels"].tolist() for index in range(2)
    ]
    assert 0 < few.text_bytes < windows.text_bytes
    assert few.document_groups.tolist() == windows.document_groups[:2].tolist()
