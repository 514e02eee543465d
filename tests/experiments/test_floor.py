"""The floor: n-grams on the windows of the data, counted once, beside every comparison of them."""

import numpy as np
import pandas as pd
import pytest

from newllm.analysis.summary import summarize_arms
from newllm.evaluation.ngram import KneserNey
from newllm.experiments import floor as floor_module
from newllm.experiments.floor import FLOORS_FOLDER, count_floor, floors_of, make_floor


def windows(side):
    return np.stack([side[index]["input_ids"].numpy() for index in range(len(side))])


@pytest.fixture
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("NEWLLM_CACHE", str(tmp_path / "cache"))


def test_its_scores_are_those_of_counts_on_the_training_windows(text_data):
    floor = count_floor(text_data)
    assert [score.order for score in floor.scores] == [2, 3, 4]
    for score in floor.scores:
        losses = KneserNey(windows(text_data.train), score.order, len(text_data.tokenizer)).token_losses(
            windows(text_data.test)
        )
        np.testing.assert_allclose(score.window_losses, losses.mean(1), atol=1e-5)
        assert score.perplexity == pytest.approx(np.exp(losses.mean()))
        assert score.bits_per_byte == pytest.approx(losses.sum() / np.log(2) / text_data.test.text_bytes)
    assert list(floor.window_groups) == text_data.test.document_groups.tolist()


def test_it_is_counted_once_and_found_by_the_records_of_its_data(text_data, tmp_path, cache, monkeypatch):
    make_floor(text_data, tmp_path / "one")
    monkeypatch.setattr(floor_module, "count_floor", lambda data: pytest.fail("it was counted again"))
    make_floor(text_data, tmp_path / "one")
    make_floor(text_data, tmp_path / "two")
    nested = tmp_path / "two" / "cpu-a1" / "pythia-seed0"
    rows = [
        {"arm": "pythia", "parameters": {"data": data}, "folder": folder}
        for data, folder in (
            (text_data.fingerprint, tmp_path / "one" / "pythia-seed0"),
            (text_data.fingerprint, nested),
            ("other", nested),
        )
    ]
    assert [floor.data for floor in floors_of(pd.DataFrame(rows[:1]))] == [text_data.fingerprint]
    assert [floor.data for floor in floors_of(pd.DataFrame(rows[1:]))] == [text_data.fingerprint]
    (tmp_path / "one" / FLOORS_FOLDER / f"{text_data.fingerprint}.json").write_text("{}")
    assert list(floors_of(pd.DataFrame(rows[:1]))) == []


def test_a_comparison_has_a_row_for_each_order(finished_comparison):
    records, _ = finished_comparison
    table = summarize_arms(records.reset_index(), baseline="pythia").set_index("arm")
    for order in (2, 3, 4):
        row = table.loc[f"{order}-gram"]
        assert row["equal_budget"]
        assert row["perplexity"] == pytest.approx(
            np.exp(row["difference"]) * table.loc["pythia", "perplexity"], rel=1e-3
        )
        assert row[["seeds", "parameter_count", "kv_bytes_per_token", "accuracy"]].isna().all()
