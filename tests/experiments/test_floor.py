"""The floor: n-grams on the windows of the data, counted once, beside every comparison of them."""

import json

import numpy as np
import pandas as pd
import pytest

from newllm.analysis.summary import summarize_arms
from newllm.data import prepare_data
from newllm.evaluation.ngram import KneserNey
from newllm.experiments import floor as floor_module
from newllm.experiments.floor import FLOORS_FOLDER, Floor, count_floor, floor_files, floors_of, make_floor
from tests.comparison_setup import settings

# Of windows of 16 tokens.
NAME = "{}-16.json"


def of(data):
    """What a record says of the windows of some data."""
    return {"data": data.fingerprint, "seq_length": data.test.seq_length}


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
        {"arm": "pythia", "parameters": {"data": data, "seq_length": 16}, "folder": folder}
        for data, folder in (
            (text_data.fingerprint, tmp_path / "one" / "pythia-seed0"),
            (text_data.fingerprint, nested),
            ("other", nested),
        )
    ]
    assert [floor.data for floor in floors_of(pd.DataFrame(rows[:1]))] == [text_data.fingerprint]
    assert [floor.data for floor in floors_of(pd.DataFrame(rows[1:]))] == [text_data.fingerprint]
    (tmp_path / "one" / FLOORS_FOLDER / NAME.format(text_data.fingerprint)).write_text("{}")
    assert list(floors_of(pd.DataFrame(rows[:1]))) == []


def test_it_is_found_above_any_record_of_its_data_whichever_is_first(text_data, tmp_path, cache):
    """A trial of ``newllm train`` has none above it."""
    make_floor(text_data, tmp_path / "sweep")
    parameters = of(text_data)
    rows = [
        {"arm": arm, "parameters": parameters, "folder": tmp_path / place / f"{arm}-seed0"}
        for arm, place in (("mla", "train"), ("pythia", "sweep"), ("mqa", "sweep"))
    ]
    for order in (rows, rows[::-1]):
        assert [floor.data for floor in floors_of(pd.DataFrame(order))] == [text_data.fingerprint]


def test_windows_of_another_length_have_a_floor_of_their_own(text_data, text_folder, tmp_path, monkeypatch):
    """Twice as many windows of half the length are the same tokens, and the same data by their fingerprint."""
    monkeypatch.setenv("NEWLLM_CACHE", str(tmp_path / "cache"))
    longer = prepare_data(settings(text_folder, seq_length=32, samples=12, val_samples=3, test_samples=3))
    assert longer.fingerprint == text_data.fingerprint
    for data in (text_data, longer):
        make_floor(data, tmp_path / "sweep")
    trial = tmp_path / "sweep" / "pythia-seed0"
    for data in (text_data, longer):
        (found,) = floors_of(pd.DataFrame([{"arm": "pythia", "parameters": of(data), "folder": trial}]))
        assert found.scores == count_floor(data).scores
        assert floor_files(trial, of(data))[0].name == f"{data.fingerprint}-{data.test.seq_length}.json"
    assert floor_files(trial, of(text_data) | {"seq_length": 64}) == []


SPOILED = {
    "no JSON": lambda stored: "{broken",
    "not finite": lambda stored: json.dumps(stored).replace(str(stored["scores"][0]["window_losses"][0]), "NaN", 1),
    "negative": lambda stored: with_losses(stored, [-1.0, *stored["scores"][0]["window_losses"][1:]]),
    "too few": lambda stored: with_losses(stored, stored["scores"][0]["window_losses"][1:]),
    "twice": lambda stored: json.dumps(stored | {"scores": stored["scores"][:1] * 2}),
    "of another perplexity": lambda stored: json.dumps(
        stored | {"scores": [stored["scores"][0] | {"perplexity": stored["scores"][0]["perplexity"] + 1}]}
    ),
    "of other data": lambda stored: json.dumps(stored | {"data": "b2"}),
    "of other windows": lambda stored: json.dumps(stored | {"seq_length": 32}),
}


def with_losses(stored, losses):
    """The text of a floor whose first order has other losses, and the perplexity that goes with them."""
    first = stored["scores"][0] | {"window_losses": losses, "perplexity": float(np.exp(np.mean(losses)))}
    return json.dumps(stored | {"scores": [first, *stored["scores"][1:]]})


@pytest.mark.parametrize("kind", SPOILED)
def test_a_damaged_floor_is_named_and_left_out_and_counted_again(text_data, tmp_path, cache, kind, caplog):
    make_floor(text_data, tmp_path / "one")
    file = tmp_path / "one" / FLOORS_FOLDER / NAME.format(text_data.fingerprint)
    whole = file.read_text()
    trial = tmp_path / "one" / "pythia-seed0"
    records = pd.DataFrame([{"arm": "pythia", "parameters": of(text_data), "folder": trial}])
    spoiled = SPOILED[kind](json.loads(whole))
    assert spoiled != whole
    for damaged in (file, tmp_path / "cache" / FLOORS_FOLDER / file.name):
        damaged.write_text(spoiled)
    assert list(floors_of(records)) == []
    assert floor_files(trial, of(text_data)) == []
    assert f"{file} is damaged" in caplog.text
    make_floor(text_data, tmp_path / "one")
    (counted,) = floors_of(records)
    assert counted.scores == Floor.model_validate_json(whole).scores


def test_a_floor_is_read_from_its_folder_alone(text_data, tmp_path, cache):
    make_floor(text_data, tmp_path)
    evil = f"../elsewhere/{text_data.fingerprint}"
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / FLOORS_FOLDER / NAME.format(text_data.fingerprint)).rename(tmp_path / NAME.format(evil[3:]))
    for data in (evil, None):
        assert floor_files(tmp_path / "pythia-seed0", of(text_data) | {"data": data}) == []
    assert floor_files(tmp_path / "pythia-seed0", {}) == []


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
